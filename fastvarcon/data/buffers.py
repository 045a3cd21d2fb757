"""Host buffers that one thread fills over and over: no allocation per batch, page-locked where a GPU reads them."""

from __future__ import annotations

import torch
from torch import Tensor

GROWTH = 1.25  # head room, so that batches of varying sizes settle on one buffer
ALIGN = 1 << 21  # whole huge pages


class BufferPool:
    """`count` buffers in turn.

    A buffer may be taken again when what was said in `give_back` has happened: nothing, or a CUDA event (the copy to
    the device is through). With two buffers one is filled while the other one is copied.
    """

    def __init__(self, count: int, pinned: bool):
        self._count, self._pinned = count, pinned
        self._free: list[tuple[Tensor, torch.cuda.Event | None]] = []
        self._made = 0

    def take(self, num_bytes: int) -> Tensor:
        """Flat uint8, [num_bytes or more]; its content is undefined. Waits for the oldest one if all are in use."""
        if self._made < self._count:
            self._made += 1
            return self._new(num_bytes)
        buffer, event = self._free.pop(0)
        if event is not None:
            event.synchronize()
        return buffer if len(buffer) >= num_bytes else self._new(num_bytes)

    def give_back(self, buffer: Tensor, event: torch.cuda.Event | None = None) -> None:
        self._free.append((buffer, event))

    def clear(self) -> None:
        """Forget the buffers; the memory goes when nobody holds one."""
        self._free, self._made = [], 0

    def _new(self, num_bytes: int) -> Tensor:
        size = -(-int(num_bytes * GROWTH) // ALIGN) * ALIGN
        return torch.empty(max(size, ALIGN), dtype=torch.uint8, pin_memory=self._pinned)
