"""Processes, devices and precision: what Accelerate sets up for us, and the traps around it."""

from __future__ import annotations

import contextlib
import os
import sys
import warnings
from collections.abc import Iterable, Iterator
from datetime import timedelta

import numpy as np
import torch
import torch.distributed as dist
import torch.nn as nn
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState, PartialState
from accelerate.utils import DistributedDataParallelKwargs, InitProcessGroupKwargs, parse_flag_from_env
from torch.distributed import ProcessGroup
from torch.nn.parallel import DistributedDataParallel

from fastvarcon.config import TrainConfig
from fastvarcon.errors import UserError
from fastvarcon.machine import available_cores, cpu_name, keep_freed_memory

MIXED_PRECISION = {"fp32": "no", "tf32": "no", "bf16": "bf16", "fp16": "fp16"}


def ddp_settings(train: TrainConfig) -> dict[str, bool]:
    """How DDP shares gradients. Buffers are left to `average_buffers`, which does better and not in every step."""
    # torch 2.10 does not know the successor that later versions recommend
    warnings.filterwarnings("ignore", "`broadcast_buffers` is deprecated", FutureWarning)
    return {
        "gradient_as_bucket_view": True,
        "broadcast_buffers": False,
        # a static graph counts the backward passes of its first step, of micro-batches too, and then waits for as many
        "static_graph": train.micro_batch == 0,
    }


@contextlib.contextmanager
def own_accelerate_state() -> Iterator[None]:
    """Inside, Accelerate starts from nothing; afterwards its state is what it was before.

    Accelerate keeps device and precision once for the whole process: without this, the second training of a process
    is refused if its precision is another one. Each training keeps its own, whichever of several ends first. The
    process group is torch's and stays.
    """
    states = (AcceleratorState, PartialState, GradientState)
    before = [state._shared_state for state in states]
    for state in states:
        state._shared_state = {}
    try:
        yield
    finally:
        for state, values in zip(states, before, strict=True):
            state._shared_state = values


def make_accelerator(train: TrainConfig) -> Accelerator:
    """Join the process group, choose the device and the precision, set the CPU threads.

    Raises:
        UserError: CUDA asked for and absent, or fp16, tf32 or CUDA graphs without it.
    """
    if train.device == "cuda" and not torch.cuda.is_available():
        raise UserError(
            "--train.device cuda: torch sees no CUDA device here; use --train.device cpu, or check the driver "
            "with nvidia-smi"
        )
    if train.device == "cuda" and parse_flag_from_env("ACCELERATE_USE_CPU"):
        raise UserError("--train.device cuda contradicts `accelerate launch --cpu`: drop one of them")
    on_gpu = train.device != "cpu" and torch.cuda.is_available() and not parse_flag_from_env("ACCELERATE_USE_CPU")
    precision = resolve_precision(train.precision, on_gpu)
    if train.compile == "cuda-graphs" and not on_gpu:
        raise UserError("--train.compile cuda-graphs needs CUDA: use default or off on the CPU")
    accelerator = Accelerator(
        cpu=not on_gpu,
        mixed_precision=MIXED_PRECISION[precision],
        kwargs_handlers=[
            DistributedDataParallelKwargs(**ddp_settings(train)),
            InitProcessGroupKwargs(timeout=timedelta(hours=2)),  # the other ranks wait while the first one validates
        ],
    )
    # Launchers set OMP_NUM_THREADS=1; a CPU run would use one core without a word.
    torch.set_num_threads(train.threads or cores_per_process())
    if on_gpu:
        # Convolutions in float32: those of bf16 and fp16 runs are the validation's. The loss's products stay float32.
        torch.backends.cudnn.allow_tf32 = precision != "fp32"
        torch.backends.cudnn.benchmark = True
    else:
        keep_freed_memory()
    return accelerator


def resolve_precision(asked: str, on_gpu: bool) -> str:
    """auto -> bf16 on CUDA, fp32 on the CPU. Raises UserError for fp16 and tf32 without CUDA."""
    if asked == "auto":
        return "bf16" if on_gpu else "fp32"
    if asked in ("fp16", "tf32") and not on_gpu:
        raise UserError(f"--train.precision {asked} needs CUDA: use fp32 or bf16 on the CPU")
    return asked


def device_name(device: torch.device) -> str:
    """The model of the GPU or CPU, and how many cores the latter gives this process."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{available_cores()} cores of {cpu_name()}"


COMPUTE_DTYPES = {"fp32": torch.float32, "tf32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def process_group() -> ProcessGroup | None:
    """The group of all processes, or None in a run of one."""
    return dist.group.WORLD if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1 else None


def bare(model: nn.Module) -> nn.Module:
    """The network inside its wrapper for distributed training, if it has one."""
    return model.module if isinstance(model, DistributedDataParallel) else model


@torch.no_grad()
def average_buffers(modules: Iterable[nn.Module], group: ProcessGroup | None) -> None:
    """Replace every floating-point buffer by its mean over the ranks. One all-reduce, none without a group.

    Running statistics follow the batches linearly, so averaging them from time to time gives what averaging them in
    every step would: those of all ranks' batches, not of the first rank's alone.
    """
    buffers = [buffer for module in modules for buffer in module.buffers() if buffer.is_floating_point()]
    if group is None or not buffers:
        return
    packed = torch.cat([buffer.flatten() for buffer in buffers])
    dist.all_reduce(packed, group=group)
    packed /= dist.get_world_size(group)
    for buffer, mean in zip(buffers, packed.split([buffer.numel() for buffer in buffers]), strict=True):
        buffer.copy_(mean.view_as(buffer))


def seed_draws(seed: int, step: int, rank: int) -> None:
    """Make torch's random numbers a function of the step and the rank. Waits for no device."""
    torch.manual_seed(int(np.random.SeedSequence((seed, step, rank)).generate_state(1)[0]))


def cores_per_process() -> int:
    """Cores this process may use, shared evenly between the processes of this machine; at least 1."""
    return max(1, available_cores() // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def launcher_warning(environ: dict[str, str], world_size: int) -> str | None:
    """What to tell the user if `accelerate launch` was asked for several processes and started one.

    accelerate 1.15 does so for `--cpu --num_processes 2`: it sets the rendezvous address of a multi-process run, and
    then starts a single process without a rank.
    """
    asked_for_several = "ACCELERATE_MIXED_PRECISION" in environ and "MASTER_ADDR" in environ
    if world_size == 1 and asked_for_several and "WORLD_SIZE" not in environ:
        return (
            "accelerate launch was asked for several processes but started ONE: this run uses one process. "
            "For several CPU processes use: torchrun --nproc_per_node N " + " ".join(sys.argv)
        )
    return None


@contextlib.contextmanager
def together(device: torch.device) -> Iterator[None]:
    """All ranks pass this block or none does. One all-reduce.

    A rank whose block raised UserError raises it, unless the first rank failed too and says it for all; ranks without
    an error of their own exit with code 2. Without this they would wait for the failed one.
    """
    error: UserError | None = None
    try:
        yield
    except UserError as caught:
        error = caught
    group = process_group()
    if group is None:
        if error is not None:
            raise error
        return
    failed = torch.zeros(dist.get_world_size(), device=device)
    failed[dist.get_rank()] = float(error is not None)
    dist.all_reduce(failed, group=group)
    if error is not None and (dist.get_rank() == 0 or not failed[0]):
        raise error
    if failed.any():
        raise SystemExit(2)


def require_same(value: int, what: str, remedy: str, device: torch.device) -> None:
    """Raise UserError on every rank unless `value` is the same on all. One all-reduce."""
    group = process_group()
    if group is not None:
        bounds = torch.tensor([value, -value], device=device)
        dist.all_reduce(bounds, op=dist.ReduceOp.MAX, group=group)
        if bounds[0] != -bounds[1]:
            raise UserError(f"the processes see different {what}: {remedy}")
