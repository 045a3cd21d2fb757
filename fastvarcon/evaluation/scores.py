"""Accuracies, and means with their spread."""

from __future__ import annotations

import math
import statistics

from torch import Tensor


def accuracy(predicted: Tensor, labels: Tensor) -> float:
    return (predicted == labels).double().mean().item()


def top_k(logits: Tensor, labels: Tensor, k: int) -> float:
    """Share of the rows of logits [n, C] whose label is among the k largest."""
    if k == 1:
        return accuracy(logits.argmax(1), labels)
    return (logits.topk(k, dim=1).indices == labels[:, None]).any(1).double().mean().item()


def mean_std(values: list[float]) -> tuple[float, float | None]:
    """Mean and sample standard deviation; None for a single value."""
    return statistics.mean(values), statistics.stdev(values) if len(values) > 1 else None


def interval95(values: list[float]) -> tuple[float, float]:
    """Mean, and half the width of the 95 % interval of the mean by Student's t over independent draws."""
    from scipy.stats import t

    error = statistics.stdev(values) / math.sqrt(len(values))
    return statistics.mean(values), float(t.ppf(0.975, len(values) - 1)) * error
