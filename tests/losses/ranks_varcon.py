"""Run by test_varcon_distributed.py on every rank: the shared loss against one process with all rows, in float64."""

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch.nn.parallel import DistributedDataParallel

from fastvarcon.losses.varcon import varcon_loss, varcon_stats

CLASSES, PER_RANK, DIM = 7, 12, 5


def batch(world: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows of all ranks. Class 6 lives on the first rank alone, class 5 nowhere; every fifth row is ignored."""
    generator = torch.Generator().manual_seed(world)
    z = F.normalize(torch.randn(world * PER_RANK, DIM, generator=generator, dtype=torch.float64), dim=1)
    labels = torch.randint(5, (len(z),), generator=generator)
    labels[:2], labels[::5] = 6, -1
    return z, labels


def check_rows(rank: int, world: int, **options) -> None:
    """Value, and every rank's slice of the gradient, for all reductions."""
    z, labels = batch(world)
    mine = slice(rank * PER_RANK, (rank + 1) * PER_RANK)
    whole, local = z.clone().requires_grad_(), z[mine].clone().requires_grad_()
    for reduction in ("mean", "sum", "none"):
        whole.grad = local.grad = None
        expected = varcon_loss(whole, labels, CLASSES, reduction=reduction, **options)
        shared = varcon_loss(local, labels[mine], CLASSES, group=dist.group.WORLD, reduction=reduction, **options)
        expected.sum().backward(), shared.sum().backward()
        torch.testing.assert_close(shared, expected if reduction != "none" else expected[mine], rtol=0, atol=1e-12)
        torch.testing.assert_close(local.grad, whole.grad[mine], rtol=0, atol=1e-12)
    stats, theirs = (
        varcon_stats(z, labels, CLASSES),
        varcon_stats(z[mine], labels[mine], CLASSES, group=dist.group.WORLD),
    )
    for name, column in vars(stats).items():
        torch.testing.assert_close(getattr(theirs, name), column[mine], rtol=0, atol=1e-12)


def check_parameters_under_ddp(rank: int, world: int, **options) -> None:
    """With the loss times the world size, DDP's averaged gradient is that of one process."""
    inputs, labels = batch(world)
    mine = slice(rank * PER_RANK, (rank + 1) * PER_RANK)

    def network() -> torch.nn.Module:
        torch.manual_seed(0)
        return torch.nn.Sequential(torch.nn.Linear(DIM, 8), torch.nn.Tanh(), torch.nn.Linear(8, 4)).double()

    single, parallel = network(), DistributedDataParallel(network())
    varcon_loss(F.normalize(single(inputs), dim=1), labels, CLASSES, **options).backward()
    z = F.normalize(parallel(inputs[mine]), dim=1)
    (varcon_loss(z, labels[mine], CLASSES, group=dist.group.WORLD, **options) * world).backward()
    for one, other in zip(single.parameters(), parallel.parameters(), strict=True):
        torch.testing.assert_close(other.grad, one.grad, rtol=0, atol=1e-12)


def main() -> None:
    dist.init_process_group("gloo")
    torch.set_num_threads(1)
    rank, world = dist.get_rank(), dist.get_world_size()
    for backend in ("reference", "closed"):
        for detach_centroids in (True, False):
            for detach_target in (True, False):
                options = {"backend": backend, "detach_centroids": detach_centroids, "detach_target": detach_target}
                check_rows(rank, world, tau1=0.3, eps=0.1, **options)
                check_parameters_under_ddp(rank, world, tau1=0.3, eps=0.1, **options)
    dist.destroy_process_group()
    print(f"rank {rank} of {world} agrees")


if __name__ == "__main__":
    main()
