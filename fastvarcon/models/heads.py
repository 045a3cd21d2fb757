"""Projection heads: features -> unit-norm embeddings that only the loss sees."""

from __future__ import annotations

import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from fastvarcon.errors import UserError

HEADS = ("mlp", "linear")


class ProjectionHead(nn.Module):
    """[N, features] -> unit rows [N, dim] in float32 (float64 stays), whatever the compute precision."""

    def __init__(self, layers: nn.Module):
        super().__init__()
        self.layers = layers

    def forward(self, features: Tensor) -> Tensor:
        z = self.layers(features)
        return F.normalize(z if z.dtype.itemsize == 8 else z.float(), dim=1)


def build_head(name: str, features: int, *, hidden: int = 0, dim: int = 128) -> ProjectionHead:
    """mlp: Linear-ReLU-Linear with `hidden` units (0 = `features`); linear: one Linear. Both end on the unit sphere."""
    if name == "linear":
        return ProjectionHead(nn.Linear(features, dim))
    if name == "mlp":
        hidden = hidden or features
        return ProjectionHead(nn.Sequential(nn.Linear(features, hidden), nn.ReLU(inplace=True), nn.Linear(hidden, dim)))
    raise UserError(f"unknown head {name!r}: choose from {', '.join(HEADS)}")
