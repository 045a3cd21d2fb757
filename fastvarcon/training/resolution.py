"""Progressive resolution: small views for most of the run, large ones at its end (Touvron et al. 2019)."""

from __future__ import annotations

import math

from fastvarcon.errors import UserError


def epoch_sizes(schedule: str, epochs: int, default: int) -> list[int]:
    """Side of the training views in each epoch. `schedule` as in TrainConfig.resolution; empty: `default` throughout.

    A size begins at the epoch nearest to its share, so that a batch has one shape within an epoch.

    Raises:
        UserError: not a schedule, shares that do not sum to 1, or a share that is less than an epoch.
    """
    if not schedule:
        return [default] * epochs
    sizes, shares = _parse(schedule)
    if not math.isclose(sum(shares), 1, abs_tol=1e-6):
        raise UserError(f"the shares of --train.resolution {schedule} sum to {sum(shares):g}: make them sum to 1")
    ends = [round(epochs * sum(shares[: i + 1])) for i in range(len(shares))]
    plan: list[int] = []
    for size, end in zip(sizes, ends, strict=True):
        if end <= len(plan):
            raise UserError(
                f"--train.resolution {schedule}: the share of {size} px is less than one of {epochs} epochs: "
                "give it more, or leave it out"
            )
        plan += [size] * (end - len(plan))
    return plan


def _parse(schedule: str) -> tuple[list[int], list[float]]:
    try:
        pairs = [part.split(":") for part in schedule.split(",")]
        sizes, shares = [int(size) for size, _ in pairs], [float(share) for _, share in pairs]
    except ValueError:
        sizes, shares = [], []
    if not sizes or min(sizes) < 1 or not all(0 < share <= 1 for share in shares):
        raise UserError(f"--train.resolution {schedule!r} is not SIZE:SHARE,...: write it like 160:0.7,224:0.3")
    return sizes, shares
