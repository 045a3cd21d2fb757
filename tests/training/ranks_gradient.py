"""Run by test_exactness.py: two optimiser steps on 1, 2, 4 and 8 forked processes, whole or in micro-batches, float64.

Batch norm has groups of two images throughout. Weights, momentum, running statistics, loss and the gradient of a
parameter of the loss have to be those of one process that sends the whole batch through the network at once.
"""

import itertools
import os
import tempfile
import traceback
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file
from torch.nn.parallel import DistributedDataParallel
from torchvision.models.resnet import BasicBlock

from fastvarcon.config import LossConfig, TrainConfig
from fastvarcon.losses import build_loss
from fastvarcon.models.encoders import ResNetEncoder
from fastvarcon.models.ghost_norm import use_ghost_groups
from fastvarcon.models.heads import build_head
from fastvarcon.training import distributed
from fastvarcon.training.micro_batch import forward_backward, images_per_pass
from fastvarcon.training.optim import add_criterion, build_optimizer

IMAGES, GROUP, STEPS = 16, 2, 2


def train(rank: int, world: int, batch_norm: str, micro_batch: int, detach: bool) -> dict[str, torch.Tensor]:
    config = TrainConfig(
        global_batch=IMAGES, lr=0.05, batch_norm=batch_norm, bn_group=GROUP, micro_batch=micro_batch, momentum=0.9
    )
    group = distributed.process_group()
    torch.manual_seed(0)
    encoder = ResNetEncoder(BasicBlock, (1, 1, 1, 1), width=0.0625, small_images=True)
    network = torch.nn.Sequential(encoder, build_head("linear", encoder.feature_dim, dim=16)).double()
    if batch_norm == "ghost":
        use_ghost_groups(network, GROUP, num_views=2)
    model = network if group is None else DistributedDataParallel(network, **distributed.ddp_settings(config))
    loss_config = LossConfig(tau1=0.5, eps=0.1, detach_centroids=detach, learn_eps=True)
    criterion = build_loss(loss_config, 4, group, dim=16).double()
    optimizer = build_optimizer(network, config, torch.device("cpu"))
    add_criterion(optimizer, criterion)
    mine = slice(rank * IMAGES // world, (rank + 1) * IMAGES // world)
    generator = torch.Generator().manual_seed(1)
    for _step in range(STEPS):
        views = torch.randn(2, IMAGES, 3, 8, 8, generator=generator, dtype=torch.float64)
        labels = torch.randint(4, (IMAGES,), generator=generator)
        loss, _ = forward_backward(
            model,
            criterion.with_stats,
            views[:, mine].flatten(0, 1),
            labels[mine],
            images_per_pass(config, world),
            lambda loss: (loss * world).backward(),
        )
        eps_gradient = criterion.eps.grad.clone()
        optimizer.step()
        optimizer.zero_grad()
    distributed.average_buffers([network], group)
    momentum = {f"momentum{i}": state["momentum_buffer"] for i, state in enumerate(optimizer.state.values())}
    return {"loss": loss.detach(), "eps": eps_gradient, **network.state_dict(), **momentum}


CASES = {  # number of processes: (batch norm, micro-batch)
    1: [("ghost", 4), ("ghost", 2)],
    2: [("ghost", 0), ("ghost", 4)],
    4: [("ghost", 2)],
    8: [("local", 0)],
}


def compare(rank: int, world: int, folder: Path) -> None:
    """All cases of one number of processes against the result of one process."""
    if world > 1:
        dist.init_process_group("gloo", init_method=f"file://{folder}/store{world}", rank=rank, world_size=world)
    for (batch_norm, micro_batch), detach in itertools.product(CASES[world], (True, False)):
        result = train(rank, world, batch_norm, micro_batch, detach)
        expected = load_file(folder / f"{detach}.safetensors")
        torch.testing.assert_close(result, expected, rtol=1e-8, atol=1e-10)
        if rank == 0:
            print("same", world, batch_norm, micro_batch, detach, flush=True)


def reference(rank: int, world: int, folder: Path) -> None:
    for detach in (True, False):
        result = train(rank, world, "ghost", 0, detach)
        save_file({name: tensor.contiguous() for name, tensor in result.items()}, folder / f"{detach}.safetensors")


def forked(function, world: int, folder: Path) -> None:
    """`function` on forked ranks: importing torch once is cheaper than fifteen times."""
    children = []
    for rank in range(world):
        child = os.fork()
        if child == 0:
            try:
                torch.set_num_threads(1)
                function(rank, world, folder)
                os._exit(0)
            except BaseException:
                traceback.print_exc()
                os._exit(1)
        children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * world, world


with tempfile.TemporaryDirectory() as folder:
    forked(reference, 1, Path(folder))
    for world in CASES:
        forked(compare, world, Path(folder))
