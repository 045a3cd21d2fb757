"""Few-shot error of frozen features: m labelled images of each class, scored on held-out ones.

The protocols of the papers: docs/maths/geometry.md#few-shot-errors. Here:

    nearest mean    the class whose mean of m features is nearest
    probe           linear, without bias, full-batch Adam (learning rate 3e-3, 300 steps) on the same m features

Every repeat draws the m images anew, without replacement; the result is the mean error over repeats.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from fastvarcon.errors import UserError

PROBE_STEPS, PROBE_LR = 300, 3e-3


def few_shot_errors(
    x: Tensor, labels: Tensor, test_x: Tensor, test_labels: Tensor, shots: int, *, repeats: int = 5, seed: int = 0
) -> dict[str, float]:
    """{"nearest_mean", "probe"}: shares of test rows that are wrong, mean over repeats.

    Args:
        x, labels: [n, D], [n] features that the shots are drawn from; test_x, test_labels: those that are scored.

    Raises:
        UserError: a class with fewer than `shots` images, or a test class without any.
    """
    classes, counts = labels.unique(return_counts=True)
    if counts.min() < shots:
        rarest = int(classes[counts.argmin()])
        raise UserError(f"class {rarest} has {int(counts.min())} training images: ask for at most so many --shots")
    test = torch.searchsorted(classes, test_labels)
    if (test == len(classes)).any() or (classes[test] != test_labels).any():
        raise UserError("the held-out images have a class without training images: use the data of one source")
    generator = torch.Generator().manual_seed(seed)
    errors = torch.zeros(2, dtype=torch.float64)
    for _ in range(repeats):
        drawn = torch.cat([_draw((labels == c).nonzero()[:, 0], shots, generator) for c in classes])
        few, target = x[drawn].float(), torch.arange(len(classes)).repeat_interleave(shots)
        means = few.unflatten(0, (len(classes), shots)).mean(1)
        errors[0] += (torch.cdist(test_x.double(), means.double()).argmin(1) != test).double().mean()
        errors[1] += (_probe(few, target, len(classes), test_x.float()) != test).double().mean()
    nearest, probe = (errors / repeats).tolist()
    return {"nearest_mean": nearest, "probe": probe}


def _draw(members: Tensor, shots: int, generator: torch.Generator) -> Tensor:
    return members[torch.randperm(len(members), generator=generator)[:shots]]


@torch.enable_grad()
def _probe(x: Tensor, target: Tensor, classes: int, test_x: Tensor) -> Tensor:
    """Class that the probe gives each test row."""
    weight = torch.zeros(classes, x.shape[1], requires_grad=True)
    optimizer = torch.optim.Adam([weight], lr=PROBE_LR)
    for _ in range(PROBE_STEPS):
        optimizer.zero_grad()
        F.cross_entropy(x @ weight.T, target).backward()
        optimizer.step()
    return (test_x @ weight.detach().T).argmax(1)
