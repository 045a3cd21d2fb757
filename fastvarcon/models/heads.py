"""Projection heads: features -> unit-norm embeddings that only the loss sees."""

from __future__ import annotations

import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from fastvarcon.errors import UserError

HEADS = ("mlp", "linear")


class ProjectionHead(nn.Module):
    """[N, features] -> unit rows [N, dim] in float32 (float64 stays), whatever the compute precision."""

    def __init__(self, layers: nn.Module, relu: bool = False):
        super().__init__()
        self.layers, self.relu = layers, relu

    def forward(self, features: Tensor) -> Tensor:
        z = self.layers(features)
        z = z if z.dtype.itemsize == 8 else z.float()
        return F.normalize(z.relu() if self.relu else z, dim=1)


class Classifier(nn.Linear):
    """[N, features] -> logits [N, classes] in float32 (float64 stays): the head of cross-entropy."""

    def forward(self, features: Tensor) -> Tensor:
        logits = super().forward(features)
        return logits if logits.dtype.itemsize == 8 else logits.float()


def build_head(name: str, features: int, *, hidden: int = 0, dim: int = 128, relu: bool = False) -> ProjectionHead:
    """mlp: Linear-ReLU-Linear with `hidden` units (0 = `features`); linear: one Linear. Both end on the unit sphere,
    with `relu` in its non-negative part (a row without a positive number stays 0).
    """
    if name == "linear":
        return ProjectionHead(nn.Linear(features, dim), relu)
    if name == "mlp":
        hidden = hidden or features
        layers = nn.Sequential(nn.Linear(features, hidden), nn.ReLU(inplace=True), nn.Linear(hidden, dim))
        return ProjectionHead(layers, relu)
    raise UserError(f"unknown head {name!r}: choose from {', '.join(HEADS)}")
