"""Accuracies, and means with their spread."""

from __future__ import annotations

import math
import statistics

import torch
from torch import Tensor


def accuracy(predicted: Tensor, labels: Tensor) -> float:
    return (predicted == labels).double().mean().item()


def top_k(logits: Tensor, labels: Tensor, k: int) -> float:
    """Share of the rows of logits [n, C] whose label is among the k largest; of equal ones the smaller class leads."""
    if k == 1:
        return accuracy(logits.argmax(1), labels)  # argmax takes the first of equal maxima
    own = logits.gather(1, labels[:, None])
    before = torch.arange(logits.shape[1], device=labels.device) < labels[:, None]
    ahead = (logits > own) | ((logits == own) & before)
    return (ahead.sum(1) < k).double().mean().item()


def mean_std(values: list[float]) -> tuple[float, float | None]:
    """Mean and sample standard deviation; None for a single value."""
    return statistics.mean(values), statistics.stdev(values) if len(values) > 1 else None


def interval95(values: list[float]) -> tuple[float, float]:
    """Mean, and half the width of the 95 % interval of the mean by Student's t over independent draws."""
    from scipy.stats import t

    error = statistics.stdev(values) / math.sqrt(len(values))
    return statistics.mean(values), float(t.ppf(0.975, len(values) - 1)) * error
