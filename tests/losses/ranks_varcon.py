"""Run by test_varcon_distributed.py on every rank: the shared loss against one process with all rows, in float64."""

import os

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch.nn.parallel import DistributedDataParallel

from fastvarcon.losses.varcon import VarConLoss, varcon_loss, varcon_stats

CLASSES, PER_RANK, DIM = 7, 12, 5
EXACT = {"rtol": 0, "atol": 1e-12}


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
        torch.testing.assert_close(shared, expected if reduction != "none" else expected[mine], **EXACT)
        torch.testing.assert_close(local.grad, whole.grad[mine], **EXACT)
    leave_one_out = options.get("leave_one_out", False)
    stats, theirs = (
        varcon_stats(z, labels, CLASSES, leave_one_out=leave_one_out),
        varcon_stats(z[mine], labels[mine], CLASSES, group=dist.group.WORLD, leave_one_out=leave_one_out),
    )
    for name, column in vars(stats).items():
        torch.testing.assert_close(getattr(theirs, name), column[mine], **EXACT)


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
        torch.testing.assert_close(other.grad, one.grad, **EXACT)


def check_compaction(rank: int, world: int, **options) -> None:
    """Few of many classes in the batch: the ranks exchange `max_rows` sums, not `num_classes`."""
    z, labels = batch(world)
    spread = torch.where(labels < 0, labels, labels * 1000 + 1)
    mine = slice(rank * PER_RANK, (rank + 1) * PER_RANK)
    whole, local = z.clone().requires_grad_(), z[mine].clone().requires_grad_()
    sent, all_reduce = [], dist.all_reduce

    def counting(tensor, *args, **kwargs):
        sent.append(tensor.nbytes)
        return all_reduce(tensor, *args, **kwargs)

    expected = varcon_loss(whole, labels, CLASSES, **options)
    expected.backward()
    dist.all_reduce = counting
    try:
        shared = varcon_loss(local, spread[mine], 7000, group=dist.group.WORLD, max_rows=world * PER_RANK, **options)
        shared.backward()
    finally:
        dist.all_reduce = all_reduce
    torch.testing.assert_close(shared, expected, **EXACT)
    torch.testing.assert_close(local.grad, whole.grad[mine], **EXACT)
    sums = 8 * world * PER_RANK
    backward = [] if options["detach_centroids"] else [sums * DIM]
    assert sent == [7000, sums * (DIM + 1), 8, *backward], sent  # presence, sums and counts, the value, their gradient


def check_module(rank: int, world: int) -> None:
    """Learnt eps (its gradient is averaged, as DDP does) and prototypes, over two steps."""
    z, labels = batch(world)
    mine = slice(rank * PER_RANK, (rank + 1) * PER_RANK)
    options = {"learn_eps": True, "prototype_momentum": 0.7, "dim": DIM}
    alone = VarConLoss(CLASSES, 0.3, 0.1, **options).double()
    shared = VarConLoss(CLASSES, 0.3, 0.1, group=dist.group.WORLD, **options).double()
    for flip in (False, True):
        rows = z.flip(1) if flip else z
        alone(rows, labels).backward()
        (shared(rows[mine], labels[mine]) * world).backward()
        torch.testing.assert_close(shared.eps.grad, alone.eps.grad, **EXACT)
        torch.testing.assert_close(shared.prototypes.mean, alone.prototypes.mean, **EXACT)


def check_triton(rank: int, world: int, **options) -> None:
    """The kernels of this rank against float64 of all rows."""
    z, labels = batch(world)
    mine = slice(rank * PER_RANK, (rank + 1) * PER_RANK)
    whole, local = z.clone().requires_grad_(), z[mine].float().requires_grad_()
    expected = varcon_loss(whole, labels, CLASSES, **options)
    shared = varcon_loss(local, labels[mine], CLASSES, group=dist.group.WORLD, backend="triton", **options)
    expected.backward(), shared.backward()
    torch.testing.assert_close(shared.double(), expected, rtol=1e-5, atol=0)
    torch.testing.assert_close(local.grad.double(), whole.grad[mine], rtol=0, atol=1e-6)


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
            options = {"backend": backend, "detach_centroids": detach_centroids}
            check_rows(rank, world, tau1=0.3, eps=0.1, leave_one_out=True, **options)
            check_compaction(rank, world, tau1=0.3, eps=0.1, **options)
    check_module(rank, world)
    if world == 2 and not torch.cuda.is_available():  # in Triton's interpreter
        for detach_centroids in (True, False):
            check_triton(rank, world, detach_centroids=detach_centroids)
    dist.destroy_process_group()
    print(f"rank {rank} of {world} agrees", flush=True)
    os._exit(0)  # threads of gloo that are ending as well may abort an interpreter that ends


if __name__ == "__main__":
    main()
