"""A request to stop, by signal: the run saves and leaves in order, at a moment on which all processes agree."""

from __future__ import annotations

import signal
import threading
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed import ProcessGroup

SIGNALS = ("SIGTERM", "SIGUSR1")  # what schedulers send before they take a machine away


class StopRequest:
    """Notes a signal while it is entered, however often it comes: launchers and schedulers both send it. Elsewhere
    than in the main thread, where Python knows no signals, it notes nothing."""

    def __init__(self) -> None:
        self.name: str | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            for number in (getattr(signal, name) for name in SIGNALS if hasattr(signal, name)):
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()

    def _note(self, number: int, _frame: object) -> None:
        self.name = signal.Signals(number).name

    def agreed(self, device: torch.device, group: ProcessGroup | None) -> str | None:
        """The signal that any process has received, the same on all. A collective; waits for the device."""
        if group is None:
            return self.name
        received = torch.tensor([SIGNALS.index(self.name) + 1 if self.name else 0], device=device)
        dist.all_reduce(received, op=dist.ReduceOp.MAX, group=group)
        return SIGNALS[int(received) - 1] if int(received) else None
