"""Training steps as the referee of rounds.py wants them: views counted when they are done, waiting and memory noted."""

from __future__ import annotations

import multiprocessing
import time
from collections import deque
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

IN_FLIGHT = 2  # steps that a GPU may be behind the host: enough to keep it busy, few enough to count fairly


class Steps:
    """Runs `step(views, labels)` for every batch and yields the number of views of the steps that are done.

    Args:
        batches: (views, labels); the time that it takes to come up with them is the waiting for data.
        step: may leave work behind on the device.
    """

    def __init__(
        self, batches: Iterator[tuple[Tensor, Tensor]], step: Callable[[Tensor, Tensor], None], device: torch.device
    ):
        self._batches, self._step, self._device = batches, step, device
        self._flying: deque[tuple[torch.cuda.Event, int]] = deque()
        self._seconds = self._waiting = 0.0

    def __iter__(self) -> Iterator[int]:
        return self

    def __next__(self) -> int:
        start = time.perf_counter()
        views, labels = next(self._batches)
        self._waiting += time.perf_counter() - start
        count = len(views)
        self._step(views, labels)
        count = self._done(count)
        self._seconds += time.perf_counter() - start
        return count

    def _done(self, count: int) -> int:
        if self._device.type != "cuda":
            return count
        event = torch.cuda.Event()
        event.record()
        self._flying.append((event, count))
        if len(self._flying) <= IN_FLIGHT:
            return 0
        event, count = self._flying.popleft()
        event.synchronize()
        return count

    def figures(self) -> dict[str, float]:
        """Share of the time spent waiting for data, and peak memory, since the last call; ends the steps under way."""
        waiting = self._waiting / max(self._seconds, 1e-9)
        self._seconds = self._waiting = 0.0
        gpu = 0.0
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
            self._flying.clear()
            gpu = torch.cuda.max_memory_allocated(self._device) / 1e6
            torch.cuda.reset_peak_memory_stats(self._device)
        return {"waiting": waiting, "gpu_mb": gpu, "host_mb": peak_host_memory() / 1e6}


def peak_host_memory() -> int:
    """Bytes of memory that this process and its worker processes have held at most, each; 0 where it is not told."""
    children = [child.pid for child in multiprocessing.active_children() if child.pid is not None]
    return _peak_of("self") + sum(map(_peak_of, children))


def _peak_of(process: str | int) -> int:
    try:
        with open(f"/proc/{process}/status") as lines:
            return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))
    except (OSError, StopIteration):
        return 0
