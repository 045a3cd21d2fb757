"""How tau2 and confidence are spread over the rows of an epoch, counted on the device and read once, at its end."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import ProcessGroup

from fastvarcon.config import LossConfig

BINS = 50


class Histograms:
    """Counts of the per-row figures `tau2`, over [tau1 - eps, tau1 + eps], and `confidence`, over [0, 1].

    A loss that has neither, or a constant tau2 (eps 0), leaves the counts out.
    """

    def __init__(self, loss: LossConfig, device: torch.device, group: ProcessGroup | None):
        self._group = group
        self._ranges = {"tau2": (loss.tau1 - loss.eps, loss.tau1 + loss.eps), "confidence": (0.0, 1.0)}
        if loss.eps == 0:
            del self._ranges["tau2"]
        self._counts = {name: torch.zeros(BINS, dtype=torch.int64, device=device) for name in self._ranges}
        self._gathered = torch.zeros(len(self._ranges), BINS, dtype=torch.int64, device=device)

    def add(self, stats: dict[str, Tensor]) -> None:
        """Count the rows of a step, [n] each. Nothing waits for the device."""
        for name, (low, high) in self._ranges.items():
            if name in stats:
                rows = stats[name]
                bins = ((rows - low) * (BINS / (high - low))).long().clamp(0, BINS - 1)
                self._counts[name].index_add_(0, bins, torch.ones_like(bins))

    def gather(self) -> None:
        """Add up what the ranks have counted, so that `state` is that of all. A collective."""
        counts = torch.stack(list(self._counts.values()))
        if self._group is not None:
            dist.all_reduce(counts, group=self._group)
        self._gathered += counts
        for own in self._counts.values():
            own.zero_()

    def read(self) -> dict[str, list[int]]:
        """`NAME_histogram`: rows of all ranks in each of BINS equal bins, since the last read. Waits; a collective."""
        self.gather()
        rows = self._gathered.tolist()
        self._gathered.zero_()
        return {f"{name}_histogram": row for name, row in zip(self._counts, rows, strict=True) if any(row)}

    def state(self) -> dict[str, Tensor]:
        """What has been gathered and not yet read."""
        return {"gathered": self._gathered}

    def restore(self, state: dict[str, Tensor]) -> None:
        self._gathered.copy_(state["gathered"])
