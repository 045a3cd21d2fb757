"""The gradient of a whole batch with the memory of a micro-batch: a gradient cache (Gao et al. 2021, "GradCache").

A contrastive loss couples all rows, so its gradient is no sum over micro-batches. But it reaches the network through z
alone, and the network treats the rows of different batch-norm groups apart:

    1. z_ND without gradient, micro-batch by micro-batch
    2. loss(z), dloss/dz                                        over the global batch, as without micro-batches
    3. each micro-batch once more, with z_j.backward(dloss/dz_j)

The sum over j is the gradient of the whole batch, for every loss, with centroids detached or not. VarCon with detached
centroids could stop the gradient at each row, but it too needs the class sums first: the same two forward passes.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn as nn
from torch import Tensor

from fastvarcon.config import TrainConfig
from fastvarcon.errors import UserError
from fastvarcon.training.distributed import bare


def images_per_pass(train: TrainConfig, world_size: int) -> int:
    """Images that a process sends through the network at a time.

    Raises:
        UserError: a share that micro-batches, or a pass that batch-norm groups, do not divide.
    """
    share = train.global_batch // world_size
    images = train.micro_batch or share
    if share % images:
        raise UserError(
            f"--train.micro-batch {images} does not divide the {share} images that each of {world_size} process(es) "
            f"has in a step: use {_divisor(share, images)}"
        )
    if train.batch_norm == "ghost" and images % train.bn_group:
        raise UserError(
            f"--train.bn-group {train.bn_group} does not divide the {images} images that go through the network at a "
            f"time: use {_divisor(images, train.bn_group)}"
        )
    return images


def _divisor(whole: int, at_most: int) -> int:
    return next(n for n in range(min(whole, at_most), 0, -1) if whole % n == 0)


def forward_backward(
    model: nn.Module,
    objective: Callable[[Tensor, Tensor], tuple[Tensor, dict[str, Tensor]]],
    views: Tensor,
    labels: Tensor,
    images: int,
    backward: Callable[[Tensor], None],
) -> tuple[Tensor, dict[str, Tensor]]:
    """Accumulate the gradients of one step and return its loss and per-row statistics.

    Args:
        model: views -> z, wrapped for distributed training or not.
        objective: (z, labels of its rows) -> loss and per-row statistics.
        views: [V * B, 3, H, W], view-major; labels: [B].
        images: images that go through the model at a time; B or a divisor of it.
        backward: runs the backward pass of the loss, scaled as the caller needs it.
    """
    labels_N = labels.repeat(len(views) // len(labels))
    if images == len(labels):
        loss, stats = objective(model(views), labels_N)
        backward(loss)
        return loss, stats

    num_views = len(views) // len(labels)
    parts = [slice(first, first + images) for first in range(0, len(labels), images)]
    z_ND = _embed(bare(model), views, num_views, parts).requires_grad_()
    loss, stats = objective(z_ND, labels_N)
    backward(loss)
    _begin_gradients(model)
    buffers = [buffer.clone() for buffer in model.buffers()]  # of the first pass: the second one must not count
    assert z_ND.grad is not None
    for part in parts:
        network = model if part is parts[-1] else bare(model)  # the wrapper then exchanges the sum of all gradients
        z_j = network(_rows(views, num_views, part))
        z_j.backward(_rows(z_ND.grad, num_views, part))
    for buffer, first_pass in zip(model.buffers(), buffers, strict=True):
        buffer.copy_(first_pass)
    return loss, stats


def _begin_gradients(model: nn.Module) -> None:
    """Zeros, to which those of all parts are added. Without them autograd would keep the first part's gradient where
    it lies, and a CUDA graph puts that of the next part into the same memory (pytorch/pytorch#169545)."""
    for parameter in model.parameters():
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)


@torch.no_grad()
def _embed(network: nn.Module, views: Tensor, num_views: int, parts: list[slice]) -> Tensor:
    """z of all parts, view-major. Running statistics move once, by the mean over the parts.

    That mean is exact, because they follow the batch linearly: every part starts from the statistics before the step.
    """
    buffers = [buffer for buffer in network.buffers() if buffer.is_floating_point()]
    counters = [buffer for buffer in network.buffers() if not buffer.is_floating_point()]
    before = [buffer.clone() for buffer in buffers]
    counted = [counter.clone() for counter in counters]
    total = [torch.zeros_like(buffer) for buffer in buffers]
    z = []
    for part in parts:
        for now, then in zip([*buffers, *counters], [*before, *counted], strict=True):
            now.copy_(then)
        z.append(network(_rows(views, num_views, part)).clone().unflatten(0, (num_views, -1)))
        if buffers:  # a network without batch norm has none
            torch._foreach_add_(total, buffers, alpha=1 / len(parts))
    for buffer, mean in zip(buffers, total, strict=True):
        buffer.copy_(mean)
    return torch.cat(z, dim=1).flatten(0, 1)


def _rows(rows: Tensor, num_views: int, images: slice) -> Tensor:
    """The rows of some images in all views, view-major; channels_last stays."""
    return torch.cat([view[images] for view in rows.chunk(num_views)])
