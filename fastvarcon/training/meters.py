"""Figures of a run that cost no synchronisation until they are read."""

from __future__ import annotations

import math
import time

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import ProcessGroup


class Meter:
    """Means of per-step figures over steps and ranks, kept on the device until they are read."""

    def __init__(self, device: torch.device, group: ProcessGroup | None):
        self._device, self._group = device, group
        self._names: list[str] = []
        self._recent = self._all = torch.zeros((), dtype=torch.float64, device=device)
        self._recent_steps = self._all_steps = 0

    def add(self, loss: Tensor, stats: dict[str, Tensor]) -> None:
        """The global loss of a step, and per-row statistics of this rank."""
        figures = {"loss": loss.detach(), **{name: rows.mean() for name, rows in stats.items()}}
        if "tau2" in stats:
            figures["tau2_square"] = stats["tau2"].square().mean()
        self._names = list(figures)
        self._recent = self._recent + torch.stack([value.to(torch.float64) for value in figures.values()])
        self._recent_steps += 1

    def read(self) -> dict[str, float]:
        """Means since the last read; the spread of tau2 as `tau2_std`. Waits for the device; a collective."""
        sums = self._recent
        if self._group is not None:
            dist.all_reduce(sums, group=self._group)
            sums = sums / dist.get_world_size(self._group)
        self._all, self._all_steps = self._all + sums, self._all_steps + self._recent_steps
        figures = self._means(sums, self._recent_steps)
        self._recent, self._recent_steps = torch.zeros_like(sums), 0
        return figures

    def read_all(self) -> dict[str, float]:
        """Means over everything that has been read."""
        return self._means(self._all, self._all_steps)

    def state(self) -> dict:
        """What has been read, the same on every rank."""
        return {"names": self._names, "sums": self._all, "steps": self._all_steps}

    def restore(self, state: dict) -> None:
        """Continue behind `state`."""
        self._names, self._all_steps = state["names"], state["steps"]
        self._all = state["sums"].to(self._device)

    def _means(self, sums: Tensor, steps: int) -> dict[str, float]:
        figures = dict(zip(self._names, (sums / steps).tolist(), strict=True))
        if "tau2_square" in figures:
            figures["tau2_std"] = math.sqrt(max(0.0, figures.pop("tau2_square") - figures["tau2"] ** 2))
        return figures


def gpu_memory(device: torch.device) -> dict[str, float]:
    """Peak memory that torch has reserved on the GPU, MB; nothing for a CPU."""
    return {"gpu_memory_mb": torch.cuda.max_memory_reserved(device) / 1e6} if device.type == "cuda" else {}


class Clock:
    """Splits the wall time of training into waiting for data and the rest."""

    def __init__(self, seconds: float = 0.0, waiting: float = 0.0, views: int = 0):
        """Totals of the earlier parts of a resumed run."""
        self.seconds, self.waiting, self.views = seconds, waiting, views
        self._mark = time.perf_counter()

    def start(self) -> None:
        """Time since the last call (validation, checkpoints) does not count."""
        self._mark = time.perf_counter()

    def got_data(self) -> None:
        self.waiting += self._lap()

    def worked(self, views: int) -> None:
        self._lap()
        self.views += views

    def _lap(self) -> float:
        now = time.perf_counter()
        lap, self._mark = now - self._mark, now
        self.seconds += lap
        return lap

    def state(self) -> dict[str, float]:
        return {"seconds": self.seconds, "waiting": self.waiting, "views": self.views}

    def rates(self, since: dict[str, float]) -> dict[str, float]:
        """Views per second and share of time spent waiting for data, since an earlier `state()`."""
        seconds = max(self.seconds - since["seconds"], 1e-9)
        return {
            "views_per_second": (self.views - since["views"]) / seconds,
            "data_wait_fraction": (self.waiting - since["waiting"]) / seconds,
        }
