"""Calibration of the linear probe: does it know how sure it may be?

ECE = sum over bins of (share of the images in the bin) x |accuracy - mean confidence in the bin|, confidence being the
largest probability (Guo et al. 2017).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from fastvarcon.evaluation.features import counts
from fastvarcon.evaluation.job import Job
from fastvarcon.evaluation.linear import linear_probe, on_device
from fastvarcon.evaluation.options import Calibration
from fastvarcon.evaluation.scores import top_k


def run(job: Job, options: Calibration) -> dict:
    train, val = job.pair()
    _, _, predict = linear_probe(*on_device(train, val, job.device), len(train.classes), options.seed, seeds=1)
    logits = predict(val.x.to(job.device)).cpu()
    bins = reliability(logits.softmax(1), val.labels, options.bins)
    ece = expected_error(bins)
    return {
        "top1": top_k(logits, val.labels, 1),
        "ece": ece,
        "mce": max(abs(one["accuracy"] - one["confidence"]) for one in bins if one["count"]),
        "nll": F.cross_entropy(logits, val.labels).item(),
        "brier": (logits.softmax(1) - F.one_hot(val.labels, logits.shape[1])).square().sum(1).mean().item(),
        "bins": bins,
        "protocol": f"linear probe, protocol fast, one seed; {options.bins} bins of equal width",
        "lines": [f"expected calibration error {ece:.2%}"],
        **counts(train, val),
    }


def reliability(probabilities: Tensor, labels: Tensor, bins: int) -> list[dict]:
    """Count, mean confidence and accuracy in each bin of confidence; of rows [n, C] that sum to 1."""
    confidence, predicted = probabilities.double().max(1)
    hit = (predicted == labels).double()
    edges = torch.linspace(0, 1, bins + 1, dtype=torch.float64)
    place = (torch.bucketize(confidence, edges) - 1).clamp(0, bins - 1)  # a bin holds its upper edge
    found = []
    for number in range(bins):
        inside = place == number
        count = int(inside.sum())
        found.append(
            {
                "from": edges[number].item(),
                "to": edges[number + 1].item(),
                "count": count,
                "confidence": confidence[inside].mean().item() if count else None,
                "accuracy": hit[inside].mean().item() if count else None,
            }
        )
    return found


def expected_error(bins: list[dict]) -> float:
    total = sum(one["count"] for one in bins)
    return sum(one["count"] * abs(one["accuracy"] - one["confidence"]) for one in bins if one["count"]) / total
