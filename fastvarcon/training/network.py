"""What is trained: the network as its settings say, the loss, and the average that is kept of the weights."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.distributed as dist
import torch.nn as nn
from torch.distributed import ProcessGroup
from torch.nn.modules.batchnorm import _BatchNorm

from fastvarcon.config import Config
from fastvarcon.errors import UserError
from fastvarcon.losses import build_loss
from fastvarcon.losses.base import Loss
from fastvarcon.losses.monitor import NsclMonitor
from fastvarcon.models import ContrastiveModel
from fastvarcon.models.batch_norm import synchronise
from fastvarcon.models.ghost_norm import use_ghost_groups
from fastvarcon.models.timm_encoders import draws_at_random
from fastvarcon.training.compiled import compile_network
from fastvarcon.training.ema import Ema
from fastvarcon.training.micro_batch import images_per_pass
from fastvarcon.training.resolution import epoch_sizes


class Parts(NamedTuple):
    network: ContrastiveModel
    criterion: Loss
    monitor: NsclMonitor | None
    ema: Ema | None


def build_parts(config: Config, classes: int, device: torch.device, group: ProcessGroup | None) -> Parts:
    """The same weights on every rank.

    Raises:
        UserError: a loss that cannot work with this data, or an encoder of timm's that cannot work with these settings.
    """
    train, views = config.train, config.data.num_views
    torch.manual_seed(train.seed)
    logits = classes if config.loss.name == "cross_entropy" else None
    sizes = epoch_sizes(train.resolution, train.epochs, config.data.size)
    network = ContrastiveModel(config.model, logits, size=config.data.size, sizes=sizes)
    require_fitting_norms(config, network.encoder)
    require_several_values(config, network.encoder, group, min(sizes or [config.data.size]))
    network = network.to(device).to(memory_format=torch.channels_last)
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


@torch.no_grad()
def require_several_values(config: Config, encoder: nn.Module, group: ProcessGroup | None, size: int) -> None:
    """Raise UserError if a batch norm would take its statistics over one value per channel, which torch refuses.

    That is one view of one image, in layers whose maps have a single pixel. size: side of the smallest views.
    """
    train, views = config.train, config.data.num_views
    world = dist.get_world_size(group) if group is not None else 1
    passed = images_per_pass(train, world)
    images = {"local": passed, "ghost": train.bn_group, "sync": passed * world}[train.batch_norm]
    norms = [module for module in encoder.modules() if isinstance(module, _BatchNorm)]
    if images * views > 1 or not norms:
        return
    values: list[int] = []
    hooks = [
        norm.register_forward_pre_hook(lambda _, inputs: values.append(inputs[0].numel() // inputs[0].shape[1]))
        for norm in norms
    ]
    was_training = encoder.training
    encoder.eval()(torch.zeros(1, 3, size, size))
    encoder.train(was_training)
    for hook in hooks:
        hook.remove()
    if min(values) > 1:
        return
    remedy = "a larger --train.bn-group" if train.batch_norm == "ghost" else "a larger --train.global-batch"
    raise UserError(
        f"--train.batch-norm {train.batch_norm} would normalise one view of one image at a time, and the last layers "
        f"of {config.model.encoder} have 1 x 1 pixels at --data.size {size}: use {remedy}, or larger views"
    )


def require_fitting_norms(config: Config, encoder: nn.Module) -> None:
    """Raise UserError for settings of batch norm and micro-batches that an encoder of timm's cannot follow."""
    if not config.model.is_timm:
        return
    name, kind, micro = config.model.encoder, config.train.batch_norm, config.train.micro_batch
    norms = {type(module) for module in encoder.modules() if isinstance(module, _BatchNorm)}
    foreign = sorted(norm.__name__ for norm in norms if norm is not nn.BatchNorm2d)
    rules = [
        (
            norms or kind == "local",
            f"{name} has no batch norm for --train.batch-norm {kind}: leave it at local, without --train.bn-group",
        ),
        (
            not foreign or kind == "local",
            f"--train.batch-norm {kind} cannot replace the {', '.join(foreign)} of {name}: leave it at local",
        ),
        (
            not norms or kind == "ghost" or micro == 0,
            f"--train.micro-batch would split the batches over which {name} takes its statistics: use "
            "--train.batch-norm ghost and a --train.bn-group that divides the micro-batch",
        ),
        (
            micro == 0 or not draws_at_random(encoder),
            f"--train.micro-batch needs two equal passes, and {name} drops paths or units at random: use "
            "--model.drop-path 0, or no micro-batches",
        ),
    ]
    for holds, message in rules:
        if not holds:
            raise UserError(message)
