"""Splits and draws of labelled sets, class by class."""

from __future__ import annotations

import torch
from torch import Tensor

from fastvarcon.errors import UserError


def stratified_split(labels: Tensor, share: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """(fit, held back) indices: `share` of every class, at least one of each class that has two images."""
    fit, held = [], []
    for members in shuffled_members(labels, generator):
        back = min(len(members) - 1, max(1, round(share * len(members))))
        held.append(members[:back])
        fit.append(members[back:])
    if not sum(map(len, held)):
        raise UserError("every class has a single training image: nothing can be held back to choose settings on")
    return torch.cat(fit), torch.cat(held)


def draw(labels: Tensor, per_class: int, generator: torch.Generator) -> Tensor:
    """Indices of `per_class` random images of each class, or of all of a class that has fewer."""
    return torch.cat([members[:per_class] for members in shuffled_members(labels, generator)])


def shuffled_members(labels: Tensor, generator: torch.Generator) -> list[Tensor]:
    """Indices of each class present, in random order."""
    members = [(labels == label).nonzero().squeeze(1) for label in labels.unique()]
    return [one[torch.randperm(len(one), generator=generator)] for one in members]


def at_most(labels: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Sorted indices of `count` images at most, the same share of every class."""
    if len(labels) <= count:
        return torch.arange(len(labels))
    members = shuffled_members(labels, generator)
    places = torch.cat([(torch.arange(len(one)) + 0.5) / len(one) for one in members])
    return torch.cat(members)[places.argsort(stable=True)[:count]].sort().values
