"""Run by test_steps.py on every rank: five optimiser steps shared by the ranks against one process, in float64."""

import os

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from fastvarcon.config import LossConfig, ModelConfig, TrainConfig
from fastvarcon.losses import build_loss
from fastvarcon.models import ContrastiveModel
from fastvarcon.models.batch_norm import synchronise
from fastvarcon.training.optim import build_optimizer

IMAGES, STEPS = 16, 5

dist.init_process_group("gloo")
torch.set_num_threads(1)
rank, world = dist.get_rank(), dist.get_world_size()
group, cpu = dist.group.WORLD, torch.device("cpu")
config = ModelConfig("resnet18", width=0.125, small_images=True, head_dim=16)


def network() -> ContrastiveModel:
    torch.manual_seed(0)
    return ContrastiveModel(config).double()


single, shared = network(), DistributedDataParallel(synchronise(network(), cpu, group), static_graph=True)
optimizers = [build_optimizer(m, TrainConfig(lr=0.05), cpu) for m in (single, shared)]
alone, together = build_loss(LossConfig(), 4), build_loss(LossConfig(), 4, group)
mine = slice(rank * IMAGES // world, (rank + 1) * IMAGES // world)
generator = torch.Generator().manual_seed(1)
for _step in range(STEPS):
    views = torch.randn(2, IMAGES, 3, 8, 8, generator=generator, dtype=torch.float64)
    labels = torch.randint(4, (IMAGES,), generator=generator)
    one = alone(single(views.flatten(0, 1)), labels.repeat(2))
    other = together(shared(views[:, mine].flatten(0, 1)), labels[mine].repeat(2))
    torch.testing.assert_close(other, one, rtol=1e-9, atol=0)
    for optimizer, loss in zip(optimizers, (one, other * world), strict=True):
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
torch.testing.assert_close(dict(shared.module.state_dict()), dict(single.state_dict()), rtol=1e-7, atol=1e-9)
dist.destroy_process_group()
print("agrees", flush=True)
os._exit(0)  # threads of gloo that are ending as well may abort an interpreter that ends
