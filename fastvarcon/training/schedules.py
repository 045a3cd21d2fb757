"""The learning rate of every step, and how it follows from the flags.

warm-up        linear, per step, from warmup_from to the peak
cosine         half a cosine, per step, from the end of the warm-up to lr_end x peak behind the last step
step           the peak, times decay_factor after each of decay_epochs
epoch-cosine   the reference code (docs/maths/varcon.md#the-reference-run): with m = lr_end x peak, epoch e = 1..E has
               the one value m + (peak - m)(1 + cos(pi e/E))/2, and the warm-up aims at the value of its own last epoch
"""

from __future__ import annotations

import math
from bisect import bisect_right
from dataclasses import dataclass

from fastvarcon.config import TrainConfig

UNIT_BATCH = 256
"""Images to which a scaled learning rate refers (Goyal et al. 2017)."""


def peak_rate(train: TrainConfig) -> float:
    """The peak learning rate: `lr` scaled by the rule of `lr_scale`."""
    ratio = train.global_batch / UNIT_BATCH
    return train.lr * {"none": 1.0, "linear": ratio, "sqrt": math.sqrt(ratio)}[train.lr_scale]


@dataclass(frozen=True)
class Schedule:
    """Learning rate as a function of the step, counted from 0: that of the update made in this step."""

    train: TrainConfig
    steps_per_epoch: int

    def __call__(self, step: int) -> float:
        train, peak = self.train, peak_rate(self.train)
        warmup = round(train.warmup_epochs * self.steps_per_epoch)
        epoch = step // self.steps_per_epoch  # done so far
        if train.schedule == "epoch-cosine":
            if step < warmup:
                return _between(train.warmup_from, self._cosine(train.warmup_epochs / train.epochs), step / warmup)
            return self._cosine((epoch + 1) / train.epochs)
        if step < warmup:
            return _between(train.warmup_from, peak, (step + 1) / warmup)
        if train.schedule == "step":
            return peak * train.decay_factor ** bisect_right(sorted(train.decay_epochs), epoch)
        return self._cosine((step - warmup) / max(1, train.epochs * self.steps_per_epoch - warmup))

    def _cosine(self, progress: float) -> float:
        end = self.train.lr_end
        return peak_rate(self.train) * (end + (1 - end) * 0.5 * (1 + math.cos(math.pi * progress)))

    def describe(self) -> str:
        """What the log says: where the peak comes from, and the way there and on."""
        train, peak = self.train, peak_rate(self.train)
        rule = {
            "none": "as given",
            "linear": f"{train.lr:g} x {train.global_batch}/{UNIT_BATCH}",
            "sqrt": f"{train.lr:g} x sqrt({train.global_batch}/{UNIT_BATCH})",
        }[train.lr_scale]
        return f"learning rate {peak:g} ({rule}), warm-up of {train.warmup_epochs:g} epochs, then {train.schedule}"


def _between(start: float, stop: float, fraction: float) -> float:
    return start + (stop - start) * fraction
