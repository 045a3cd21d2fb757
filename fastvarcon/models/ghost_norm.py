"""Batch normalisation in groups of a fixed number of images ("ghost batches", Hoffer et al. 2017).

A group is `images` consecutive images of the batch with all their views: what one process of a distributed run holds.
So one process with ghost groups has the activations and gradients of many processes with local batch norm, and a batch
may be split into micro-batches between groups without changing them.

Rows arrive view-major (row v*B + b). The model sorts them by group once, on entry, and back on exit; every layer then
normalises contiguous chunks with torch's own kernel. Running statistics follow the mean over the groups, which is what
the mean over processes gives (`training.distributed.average_buffers`).
"""

from __future__ import annotations

from typing import TypeVar

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

Model = TypeVar("Model", bound=nn.Module)


class GhostBatchNorm2d(nn.BatchNorm2d):
    """BatchNorm2d whose training statistics are those of each chunk of `rows` consecutive rows."""

    running_mean: Tensor  # of a layer that keeps statistics, as all of ours do
    running_var: Tensor
    num_batches_tracked: Tensor
    momentum: float
    rows = 0

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        chunks = x.split(self.rows)
        # with momentum 1 a running statistic is the statistic of the chunk
        means, variances = self.running_mean.new_zeros(2, len(chunks), self.num_features)
        parts = [
            F.batch_norm(chunk, mean, variance, self.weight, self.bias, training=True, momentum=1.0, eps=self.eps)
            for chunk, mean, variance in zip(chunks, means, variances, strict=True)
        ]
        with torch.no_grad():
            self.num_batches_tracked += 1
            self.running_mean.lerp_(means.mean(0), self.momentum)
            self.running_var.lerp_(variances.mean(0), self.momentum)
        return torch.cat(parts)


def use_ghost_groups(model: Model, images: int, num_views: int) -> Model:
    """Make every BatchNorm2d of `model` take its statistics over `images` images with all their views.

    The number of images in a training batch has to be a multiple of `images`. Parameters keep their names.
    """
    for module in model.modules():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = GhostBatchNorm2d
            assert isinstance(module, GhostBatchNorm2d)
            module.rows = images * num_views

    def enter(module: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
        (views,) = inputs
        grouped = views.unflatten(0, (num_views, -1, images)).transpose(0, 1).flatten(0, 2)
        return (grouped.contiguous(memory_format=torch.channels_last),)

    def leave(module: nn.Module, inputs: tuple[Tensor], z: Tensor) -> Tensor:
        return z.unflatten(0, (-1, num_views, images)).transpose(0, 1).flatten(0, 2)

    model.register_forward_pre_hook(enter)
    model.register_forward_hook(leave)
    return model
