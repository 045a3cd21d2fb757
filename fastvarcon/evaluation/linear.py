"""Linear probe on cached features: softmax regression whose learning rate is chosen on a split of the training set.

All learning rates of the grid are trained at once, as one batched matrix product. Features are standardised with
training statistics and divided by sqrt(D), so that rows have unit length on average and one grid fits every encoder.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from fastvarcon.errors import UserError

LR_GRID = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0)
EPOCHS = 100
BATCH = 256
MOMENTUM = 0.9
HELD_BACK = 0.1  # share of each class that the choice of the learning rate is made on


@dataclass(frozen=True)
class ProbeResult:
    top1: float
    top5: float | None
    """None with five classes or fewer."""
    lr: float
    """Chosen on the split of the training set."""
    split_top1: dict[float, float]
    """Accuracy on that split, by learning rate."""


def linear_probe(
    train_x: Tensor, train_y: Tensor, test_x: Tensor, test_y: Tensor, num_classes: int, seed: int = 0
) -> ProbeResult:
    """Train on train_x [n, D], train_y [n]; score on test_x [m, D], test_y [m], which take no part in any choice.

    Raises:
        UserError: fewer than two classes, or no class with two training images to split.
    """
    if num_classes < 2:
        raise UserError("a linear probe needs at least two classes")
    generator = torch.Generator().manual_seed(seed)
    fit, held = stratified_split(train_y.cpu(), generator)
    scale = _Standardise(train_x[fit])
    weights = _train(scale(train_x[fit]), train_y[fit], num_classes, LR_GRID, generator)
    held_logits = _logits(scale(train_x[held]), weights)
    scores = (held_logits.argmax(2) == train_y[held]).double().mean(1)
    losses = torch.stack([torch.nn.functional.cross_entropy(logits, train_y[held]) for logits in held_logits])
    best = max(range(len(LR_GRID)), key=lambda g: (scores[g].item(), -losses[g].item()))

    scale = _Standardise(train_x)
    weights = _train(scale(train_x), train_y, num_classes, LR_GRID[best : best + 1], generator)
    logits = _logits(scale(test_x), weights)[0]
    return ProbeResult(
        top1=_top(logits, test_y, 1),
        top5=_top(logits, test_y, 5) if num_classes > 5 else None,
        lr=LR_GRID[best],
        split_top1={lr: score.item() for lr, score in zip(LR_GRID, scores, strict=True)},
    )


def stratified_split(labels: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """(fit, held back) indices: HELD_BACK of every class, at least one of each class that has two images."""
    fit, held = [], []
    for label in labels.unique():
        members = (labels == label).nonzero().squeeze(1)
        members = members[torch.randperm(len(members), generator=generator)]
        back = min(len(members) - 1, max(1, round(HELD_BACK * len(members))))
        held.append(members[:back])
        fit.append(members[back:])
    if not sum(map(len, held)):
        raise UserError("every class has a single training image: nothing can be held back to choose the learning rate")
    return torch.cat(fit), torch.cat(held)


class _Standardise:
    def __init__(self, x: Tensor):
        self._mean = x.mean(0)
        self._std = x.std(0, correction=0).clamp(min=1e-6) * math.sqrt(x.shape[1])

    def __call__(self, x: Tensor) -> Tensor:
        return (x - self._mean) / self._std


def _logits(x: Tensor, weights: Tensor) -> Tensor:
    """[G, n, C] for weights [G, D + 1, C], bias last."""
    return x @ weights[:, :-1] + weights[:, -1:]


def _train(x: Tensor, y: Tensor, num_classes: int, lrs: tuple[float, ...], generator: torch.Generator) -> Tensor:
    """SGD with momentum and cosine decay on the mean cross-entropy, one model per learning rate. -> [G, D + 1, C]"""
    n, dim = x.shape
    x = torch.cat([x, x.new_ones(n, 1)], 1)
    weights = x.new_zeros(len(lrs), dim + 1, num_classes)
    velocity = torch.zeros_like(weights)
    lr_G11 = x.new_tensor(lrs).view(-1, 1, 1)
    steps = EPOCHS * math.ceil(n / BATCH)
    step = 0
    for _ in range(EPOCHS):
        for index in torch.randperm(n, generator=generator).to(x.device).split(BATCH):
            rows = x[index]
            error = torch.softmax(rows @ weights, dim=2)  # gradient of the loss by the logits, after the next line
            error.scatter_add_(
                2, y[index].view(1, -1, 1).expand(len(lrs), -1, 1), error.new_full((len(lrs), len(index), 1), -1)
            )
            velocity.mul_(MOMENTUM).add_(rows.T @ error, alpha=1 / len(index))
            weights -= lr_G11 * (0.5 * (1 + math.cos(math.pi * step / steps))) * velocity
            step += 1
    return weights


def _top(logits: Tensor, labels: Tensor, k: int) -> float:
    return (logits.topk(k, dim=1).indices == labels[:, None]).any(1).double().mean().item()
