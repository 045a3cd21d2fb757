"""How far an accuracy may lie from what other held-out images would show. No torch here: tables need it too."""

from __future__ import annotations

import math
import statistics

Z95 = statistics.NormalDist().inv_cdf(0.975)


def wilson(share: float, count: int) -> tuple[float, float]:
    """95 % interval of an accuracy that was measured on `count` images (Wilson 1927).

    It is what other held-out images of the same kind could have shown. On the same images two machines, or two
    trainings, may differ by less or by more.
    """
    square = Z95**2 / count
    middle = share + square / 2
    half = Z95 * math.sqrt((share * (1 - share) + square / 4) / count)
    return max(0.0, (middle - half) / (1 + square)), min(1.0, (middle + half) / (1 + square))
