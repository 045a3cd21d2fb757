"""The processes of an evaluation: the first one thinks, the others help it to extract features.

Started alone, or by torchrun or accelerate. Everything goes through gloo on the host, on GPUs too: features end there.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from fastvarcon.machine import available_cores

PATIENCE = timedelta(hours=24)  # that the others wait while the first process works on features


class Processes:
    """Joins the process group of the launcher, if there is one; a context manager that leaves it."""

    def __init__(self) -> None:
        self.world_size = int(os.environ.get("WORLD_SIZE", "1"))
        self.rank = int(os.environ.get("RANK", "0")) if self.world_size > 1 else 0
        local_rank = int(os.environ.get("LOCAL_RANK", "0"))
        self.cores = max(1, available_cores() // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
        """Cores of this process: an even share of the machine's."""
        self.device = torch.device("cuda", local_rank) if torch.cuda.is_available() else torch.device("cpu")
        if self.device.type == "cuda":
            torch.cuda.set_device(self.device)

    def __enter__(self) -> Processes:
        if self.world_size > 1:
            dist.init_process_group("gloo", timeout=PATIENCE)
            torch.set_num_threads(self.cores)  # launchers set one
        return self

    def __exit__(self, error: object, *rest: object) -> None:
        if self.world_size > 1 and error is None:  # not behind an error: the others may be gone
            if self.rank == 0:
                self.send(None)
            dist.destroy_process_group()

    def send(self, message: object) -> None:
        """From the first process to all others."""
        if self.world_size > 1:
            with _partner():
                dist.broadcast_object_list([message], src=0)

    def receive(self) -> Any:
        """What the first process has sent."""
        box: list[Any] = [None]
        with _partner():
            dist.broadcast_object_list(box, src=0)
        return box[0]

    def give_rows(self, rows: Tensor) -> None:
        """Send [n, D] float32 host rows to the first process, which knows n; D goes ahead."""
        if len(rows):
            with _partner():
                dist.send(torch.tensor([rows.shape[1]]), dst=0)
                dist.send(rows.contiguous(), dst=0)

    def gather_rows(self, own: Tensor, bounds: list[tuple[int, int]]) -> Tensor:
        """On the first process: its own rows, then those that the others give, `bounds` of each. [n, D]"""
        parts = [own] if len(own) else []
        for rank in range(1, self.world_size):
            count = bounds[rank][1] - bounds[rank][0]
            if count:
                dim = torch.zeros(1, dtype=torch.int64)
                with _partner():
                    dist.recv(dim, src=rank)
                    parts.append(torch.empty(count, int(dim)))
                    dist.recv(parts[-1], src=rank)
        return parts[0] if len(parts) == 1 else torch.cat(parts)


@contextlib.contextmanager
def _partner() -> Iterator[None]:
    """A process that is gone has said why; the others leave without a word of their own."""
    try:
        yield
    except RuntimeError:
        raise SystemExit(2) from None
