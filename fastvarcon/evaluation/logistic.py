"""L2-regularised logistic regression by L-BFGS, with scikit-learn's objective on any device.

minimise over W [D, C], b [C]:   1/2 |W|^2 + strength * sum_i cross_entropy(x_i W + b, y_i)
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from fastvarcon.evaluation.scores import top_k
from fastvarcon.evaluation.softmax import Scale, with_ones
from fastvarcon.evaluation.splits import stratified_split
from fastvarcon.evaluation.threads import threads_for

STRENGTHS = tuple(10.0**power for power in range(-1, 6))
"""Grid of `strength`, scikit-learn's C, for rows of length 1 on average."""
HELD_BACK = 0.2  # share of each class that the strength is chosen on
ITERATIONS = 300
TOLERANCE = 1e-5  # of the gradient of the mean objective


def fit(x: Tensor, y: Tensor, num_classes: int, strength: float, start: Tensor | None = None) -> Tensor:
    """Weights [D + 1, C], bias last, for rows x [n, D] and labels y [n]. `start`: weights to begin from."""
    from scipy.optimize import minimize

    x = with_ones(x)
    scale = 1 / (strength * len(x))  # of the objective, which becomes a mean

    def objective(flat: np.ndarray) -> tuple[float, np.ndarray]:
        weights = torch.from_numpy(flat).to(x).view(x.shape[1], num_classes)
        logits = x @ weights
        penalised = weights.clone()
        penalised[-1] = 0
        error = torch.softmax(logits, 1)
        error[torch.arange(len(y), device=y.device), y] -= 1
        gradient = x.T @ error / len(x) + scale * penalised
        loss = F.cross_entropy(logits, y) + 0.5 * scale * (penalised * penalised).sum()
        return loss.item(), gradient.double().cpu().numpy().reshape(-1)

    begin = np.zeros(x.shape[1] * num_classes) if start is None else start.double().cpu().numpy().reshape(-1)
    options = {"maxiter": ITERATIONS, "gtol": TOLERANCE, "ftol": torch.finfo(x.dtype).eps}
    with threads_for(x.numel() * num_classes):
        found = minimize(objective, begin, jac=True, method="L-BFGS-B", options=options).x
    return torch.from_numpy(found).to(x).view(x.shape[1], num_classes)


def predict(weights: Tensor, x: Tensor) -> Tensor:
    """Logits [n, C]."""
    return torch.addmm(weights[-1], x, weights[:-1])


@dataclass(frozen=True)
class Chosen:
    weights: Tensor
    scale: Scale
    strength: float
    split_top1: dict[str, float]
    """Accuracy on the split that the strength was chosen on, by strength."""

    def logits(self, x: Tensor) -> Tensor:
        return predict(self.weights, self.scale(x))


def fit_chosen(x: Tensor, y: Tensor, num_classes: int, seed: int) -> Chosen:
    """The strength is chosen on HELD_BACK of the rows x [n, D]; then all of them are fitted with it."""
    inside, held = stratified_split(y.cpu(), HELD_BACK, torch.Generator().manual_seed(seed))
    scale = Scale.of(x[inside])
    inside_x, held_x = scale(x[inside]), scale(x[held])
    weights, scores = None, {}
    for strength in STRENGTHS:  # each begins where a stronger penalty has led
        weights = fit(inside_x, y[inside], num_classes, strength, weights)
        scores[strength] = top_k(predict(weights, held_x), y[held], 1)
    best = max(STRENGTHS, key=lambda strength: (scores[strength], -strength))
    scale = Scale.of(x)
    return Chosen(
        fit(scale(x), y, num_classes, best), scale, best, {f"{strength:g}": score for strength, score in scores.items()}
    )
