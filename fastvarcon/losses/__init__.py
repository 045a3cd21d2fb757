"""Objectives by name. A loss is a module with `forward(z, labels)` and `with_stats(z, labels)`.

z: [N, D] unit rows of this rank, labels: [N] int64. `with_stats` also returns per-row numbers worth logging, by name.
"""

from __future__ import annotations

import torch

from fastvarcon.config import LossConfig
from fastvarcon.errors import UserError
from fastvarcon.losses.varcon import VarConLoss, varcon_loss, varcon_stats

__all__ = ["VarConLoss", "build_loss", "varcon_loss", "varcon_stats"]


def build_loss(config: LossConfig, num_classes: int, group=None) -> torch.nn.Module:
    """The objective that `config` names, for the global batch of `group` (None: this process alone)."""
    if config.name == "varcon":
        return VarConLoss(
            num_classes,
            tau1=config.tau1,
            eps=config.eps,
            group=group,
            detach_centroids=config.detach_centroids,
            detach_target=config.detach_target,
            backend=config.backend,
        )
    raise UserError(f"unknown loss {config.name!r}: choose varcon")
