"""Objectives by name. A loss is a module with `forward(z, labels)` and `with_stats(z, labels)`.

z: [N, D] unit rows of this rank, view-major; labels: [N] int64. `with_stats` also returns per-row numbers worth
logging, by name.
"""

from __future__ import annotations

from typing import Any

from torch.distributed import ProcessGroup

from fastvarcon.config import LossConfig
from fastvarcon.errors import UserError
from fastvarcon.losses.base import Loss
from fastvarcon.losses.contrastive import ContrastiveLoss
from fastvarcon.losses.cross_entropy import CrossEntropyLoss
from fastvarcon.losses.hyperspherical import DhelLoss, KclLoss
from fastvarcon.losses.prototypes import ClopLoss
from fastvarcon.losses.ssem import SsemLoss
from fastvarcon.losses.varcon import VarConLoss, varcon_loss, varcon_stats

__all__ = [
    "ClopLoss",
    "ContrastiveLoss",
    "CrossEntropyLoss",
    "DhelLoss",
    "KclLoss",
    "SsemLoss",
    "VarConLoss",
    "build_loss",
    "varcon_loss",
    "varcon_stats",
]

VARCON_SETTINGS = (
    "tau1",
    "eps",
    "detach_centroids",
    "detach_target",
    "terms",
    "label_smoothing",
    "leave_one_out",
    "learn_eps",
    "prototype_momentum",
)


def build_loss(
    config: LossConfig,
    num_classes: int,
    group: ProcessGroup | None = None,
    *,
    num_views: int = 2,
    dim: int = 128,
    max_rows: int | None = None,
) -> Loss:
    """The objective that `config` names, for the global batch of `group` (None: this process alone).

    Args:
        num_views: views of each image among the rows.
        dim: columns of z.
        max_rows: the most rows of a global batch; ranks that share one exchange less if they know it.

    Raises:
        UserError: unknown name, or a loss that cannot work with these classes, views or columns.
    """
    shared: dict[str, Any] = {"group": group, "backend": config.backend}
    pairs: dict[str, Any] = {**shared, "num_views": num_views, "temperature": config.temperature}
    match config.base:
        case "varcon":
            settings = {name: getattr(config, name) for name in VARCON_SETTINGS}
            loss: Loss = VarConLoss(num_classes, dim=dim, max_rows=max_rows, **settings, **shared)
        case "simclr":
            loss = ContrastiveLoss("simclr", **pairs)
        case "dcl":
            loss = ContrastiveLoss("dcl", den="image", **pairs)
        case "nscl":
            loss = ContrastiveLoss("nscl", den="class", own=config.include_own_positive, **pairs)
        case "supcon":
            loss = ContrastiveLoss("supcon", pos="class", reduce=config.supcon_reduce, **pairs)
        case "sincere":
            loss = ContrastiveLoss("sincere", pos="class", den="class", own=True, **pairs)
        case "hscl":
            mine = {**pairs, "own": True, "reduce": "pairs", "beta": config.beta}
            loss = ContrastiveLoss("hscl", pos="class", den="class", **mine)
        case "ssem":
            loss = SsemLoss(config.alpha, **pairs)
        case "dhel":
            loss = DhelLoss(**pairs)
        case "kcl":
            loss = KclLoss(num_views=num_views, t=config.kcl_t, gamma=config.kcl_gamma, **shared)
        case "cross_entropy":
            loss = CrossEntropyLoss(label_smoothing=config.label_smoothing, group=group)
        case unknown:
            raise UserError(f"unknown loss {unknown!r}: choose one of those that --help lists for --loss.name")
    if config.name == "clop":
        loss = ClopLoss(loss, num_classes, dim, weight=config.clop_weight, group=group)
    return loss
