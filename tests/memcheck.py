"""Triton's interpreter with checked memory: a kernel that reads or writes outside of its tensors fails the test.

The interpreter takes addresses as they are, so such a kernel would read a neighbour's bytes or damage this process, and
fail somewhere else or nowhere. On a GPU `compute-sanitizer` says the same.
"""

from __future__ import annotations

import numpy as np
import torch
from triton.runtime import interpreter


class Allowed:
    """Bytes that the kernel which runs may touch: those of the storages it was given."""

    def __init__(self):
        self.begins = self.ends = np.zeros(0, dtype=np.uint64)

    def set(self, tensors: list[torch.Tensor]) -> None:
        storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors}
        self.begins = np.array(sorted(storages), dtype=np.uint64)
        self.ends = self.begins + np.array([storages[begin] for begin in sorted(storages)], dtype=np.uint64)

    def check(self, what: str, pointers, mask) -> None:
        size = np.uint64(max(1, pointers.get_element_ty().primitive_bitwidth // 8))
        addresses = np.asarray(pointers.data)[np.asarray(mask.data, dtype=bool)].astype(np.uint64)
        if not addresses.size:
            return
        owner = np.searchsorted(self.begins, addresses, side="right").astype(np.int64) - 1
        outside = (owner < 0) | (addresses + size > self.ends[owner])
        if outside.any():
            raise MemoryError(f"the kernel {what} {outside.sum()} of {addresses.size} values outside of its tensors")


def install() -> None:
    """From now on every kernel that the interpreter runs is checked."""
    allowed = Allowed()
    executor, builder = interpreter.GridExecutor, interpreter.InterpreterBuilder
    prepare, load, store = executor._init_args_hst, builder.create_masked_load, builder.create_masked_store
    update = builder.create_atomic_rmw

    def checked_prepare(self, *args):
        host, named = prepare(self, *args)
        allowed.set([value for value in (*host, *named.values()) if isinstance(value, torch.Tensor)])
        return host, named

    def checked_load(self, pointers, mask, *rest):
        allowed.check("reads", pointers, mask)
        return load(self, pointers, mask, *rest)

    def checked_store(self, pointers, value, mask, *rest):
        allowed.check("writes", pointers, mask)
        return store(self, pointers, value, mask, *rest)

    def checked_update(self, operation, pointers, value, mask, *rest):
        allowed.check("updates", pointers, mask)
        return update(self, operation, pointers, value, mask, *rest)

    executor._init_args_hst = checked_prepare
    builder.create_masked_load, builder.create_masked_store = checked_load, checked_store
    builder.create_atomic_rmw = checked_update
