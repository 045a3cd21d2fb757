"""What is trained: the network as its settings say, the loss, and the average that is kept of the weights."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn as nn

from fastvarcon.config import Config
from fastvarcon.losses import build_loss
from fastvarcon.losses.monitor import NsclMonitor
from fastvarcon.models import ContrastiveModel
from fastvarcon.models.batch_norm import synchronise
from fastvarcon.models.ghost_norm import use_ghost_groups
from fastvarcon.training.compiled import compile_network
from fastvarcon.training.ema import Ema


class Parts(NamedTuple):
    network: ContrastiveModel
    criterion: nn.Module
    monitor: NsclMonitor | None
    ema: Ema | None


def build_parts(config: Config, classes: int, device: torch.device, group) -> Parts:
    """The same weights on every rank. Raises UserError for a loss that cannot work with this data."""
    train, views = config.train, config.data.num_views
    torch.manual_seed(train.seed)
    logits = classes if config.loss.name == "cross_entropy" else None
    network = ContrastiveModel(config.model, logits).to(device, memory_format=torch.channels_last)
    shape = {"num_views": views, "dim": config.model.head_dim, "max_rows": train.global_batch * views}
    criterion = build_loss(config.loss, classes, group, **shape).to(device)
    monitor = None
    if config.monitor.nscl:
        monitor = NsclMonitor(classes, num_views=views, group=group, backend=config.loss.backend)
    ema = Ema(network, train.ema) if train.ema else None
    if train.batch_norm == "sync" and group is not None:
        network = synchronise(network, device, group)
    if train.batch_norm == "ghost":
        network = use_ghost_groups(network, train.bn_group, views)
    compile_network(network, train.compile)
    return Parts(network, criterion, monitor, ema)
