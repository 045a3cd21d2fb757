"""Batch normalisation over the batch of all processes, on any device.

torch.nn.SyncBatchNorm runs on GPUs only. This one is plain autograd: slower, exact in float64, and it makes a run on
two CPU processes comparable with a run on one. On GPUs `synchronise` uses torch's own.
"""

from __future__ import annotations

from typing import TypeVar

import torch
import torch.nn as nn
from torch import Tensor
from torch.distributed import ProcessGroup
from torch.distributed.nn.functional import all_reduce

Model = TypeVar("Model", bound=nn.Module)


class CrossProcessBatchNorm2d(nn.BatchNorm2d):
    """BatchNorm2d whose training statistics are those of the batches of all processes of `group` together.

    Collectives a layer: forward 2 all-reduces of [channels] (sums and count, then centred squares), backward as many.
    """

    running_mean: Tensor  # of a layer that keeps statistics, as all of ours do
    running_var: Tensor
    num_batches_tracked: Tensor
    momentum: float
    group: ProcessGroup | None = None

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        x = x if x.dtype == torch.float64 else x.float()  # as torch's own, also under autocast
        count = x.new_full((1,), x.numel() / x.shape[1])
        packed = all_reduce(torch.cat([x.sum((0, 2, 3)), count]), group=self.group)
        count = packed[-1].detach()
        mean = packed[:-1] / count
        centred = x - mean.view(1, -1, 1, 1)
        var = all_reduce((centred * centred).sum((0, 2, 3)), group=self.group) / count
        with torch.no_grad():
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean.to(self.running_mean.dtype), self.momentum)
            self.running_var.lerp_((var * count / (count - 1).clamp(min=1)).to(self.running_var.dtype), self.momentum)
        scale = self.weight * (var + self.eps).rsqrt()
        return centred * scale.view(1, -1, 1, 1) + self.bias.view(1, -1, 1, 1)


def synchronise(model: Model, device: torch.device, group: ProcessGroup | None) -> Model:
    """Make every BatchNorm2d of `model` use the statistics of all processes of `group`; parameters keep their names."""
    if device.type == "cuda":
        return nn.SyncBatchNorm.convert_sync_batchnorm(model, group)
    for module in model.modules():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = CrossProcessBatchNorm2d
            assert isinstance(module, CrossProcessBatchNorm2d)
            module.group = group
    return model
