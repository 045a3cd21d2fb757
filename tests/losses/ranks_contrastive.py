"""Run by test_contrastive_distributed.py on four ranks: losses shared by all of them, and by two and two, against one
process with all rows, in float64.
"""

import os

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch.nn.parallel import DistributedDataParallel

from fastvarcon.config import LossConfig
from fastvarcon.losses import build_loss
from fastvarcon.losses.monitor import NsclMonitor

CLASSES, IMAGES, VIEWS, DIM = 4, 3, 2, 6
NAMES = ("simclr", "dcl", "nscl", "supcon", "sincere", "hscl", "ssem", "dhel", "kcl", "clop", "cross_entropy")
VARIANTS = [LossConfig(name, temperature=0.4) for name in NAMES] + [
    LossConfig("nscl", include_own_positive=True),
    LossConfig("supcon", supcon_reduce="in"),
]


def batch(world: int) -> tuple[torch.Tensor, torch.Tensor]:
    """[views, images, D] and labels of all ranks. One image is the only one of its class, one has no label."""
    generator = torch.Generator().manual_seed(world)
    z = F.normalize(torch.randn(VIEWS, world * IMAGES, DIM, generator=generator, dtype=torch.float64), dim=2)
    labels = torch.arange(world * IMAGES) % (CLASSES - 1)
    labels[0], labels[4] = CLASSES - 1, -1
    return z, labels


def loss_of(config: LossConfig, group=None) -> torch.nn.Module:
    return build_loss(config, CLASSES, group, num_views=VIEWS, dim=DIM)


def check_rows(group, config: LossConfig) -> None:
    """Value, this rank's slice of the gradient, and its figures."""
    rank, world = dist.get_rank(group), dist.get_world_size(group)
    z, labels = batch(world)
    mine = slice(rank * IMAGES, (rank + 1) * IMAGES)
    whole, local = z.clone().requires_grad_(), z[:, mine].clone().requires_grad_()
    expected, figures = loss_of(config).with_stats(whole.flatten(0, 1), labels.repeat(VIEWS))
    shared, stats = loss_of(config, group).with_stats(local.flatten(0, 1), labels[mine].repeat(VIEWS))
    expected.backward(), shared.backward()
    torch.testing.assert_close(shared, expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(local.grad, whole.grad[:, mine], rtol=0, atol=1e-12)
    for name, column in stats.items():
        torch.testing.assert_close(column, figures[name].view(VIEWS, -1)[:, mine].flatten(), rtol=0, atol=1e-12)


def check_parameters_under_ddp(group, config: LossConfig) -> None:
    """With the loss times the world size, DDP's averaged gradient is that of one process."""
    rank, world = dist.get_rank(group), dist.get_world_size(group)
    inputs, labels = batch(world)
    mine = slice(rank * IMAGES, (rank + 1) * IMAGES)

    def network() -> torch.nn.Module:
        torch.manual_seed(0)
        return torch.nn.Sequential(torch.nn.Linear(DIM, 8), torch.nn.Tanh(), torch.nn.Linear(8, DIM)).double()

    def rows(model, views: torch.Tensor) -> torch.Tensor:
        return F.normalize(model(views.flatten(0, 1)), dim=1)

    single, parallel = network(), DistributedDataParallel(network(), process_group=group)
    loss_of(config)(rows(single, inputs), labels.repeat(VIEWS)).backward()
    shared = loss_of(config, group)(rows(parallel, inputs[:, mine]), labels[mine].repeat(VIEWS))
    (shared * world).backward()
    for one, other in zip(single.parameters(), parallel.parameters(), strict=True):
        torch.testing.assert_close(other.grad, one.grad, rtol=0, atol=1e-12)


def check_monitor(group) -> None:
    rank, world = dist.get_rank(group), dist.get_world_size(group)
    z, labels = batch(world)
    labels[labels < 0] = 0
    mine = slice(rank * IMAGES, (rank + 1) * IMAGES)
    expected = NsclMonitor(CLASSES)(z.flatten(0, 1), labels.repeat(VIEWS))
    shared = NsclMonitor(CLASSES, group=group)(z[:, mine].flatten(0, 1), labels[mine].repeat(VIEWS))
    torch.testing.assert_close(shared, expected, rtol=0, atol=1e-12)


def main() -> None:
    dist.init_process_group("gloo")
    torch.set_num_threads(1)
    rank = dist.get_rank()
    pairs = [dist.new_group([0, 1]), dist.new_group([2, 3])]
    for group in (dist.group.WORLD, pairs[rank // 2]):
        check_monitor(group)
        for config in VARIANTS:
            for backend in ("reference", "closed"):
                config.backend = backend
                check_rows(group, config)
            check_parameters_under_ddp(group, config)
    dist.destroy_process_group()
    print(f"rank {rank} agrees", flush=True)
    os._exit(0)  # threads of gloo that are ending as well may abort an interpreter that ends


if __name__ == "__main__":
    main()
