"""Processes, devices and precision: what Accelerate sets up for us, and the traps around it."""

from __future__ import annotations

import os
import sys

import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs

from fastvarcon.config import TrainConfig
from fastvarcon.errors import UserError

MIXED_PRECISION = {"fp32": "no", "bf16": "bf16", "fp16": "fp16"}


def make_accelerator(train: TrainConfig) -> Accelerator:
    """Join the process group, choose the device and the precision, set the CPU threads.

    Raises:
        UserError: CUDA asked for and absent, or fp16 without CUDA.
    """
    if train.device == "cuda" and not torch.cuda.is_available():
        raise UserError(
            "--train.device cuda: torch sees no CUDA device here; use --train.device cpu, or check the driver "
            "with nvidia-smi"
        )
    on_gpu = train.device != "cpu" and torch.cuda.is_available()
    precision = resolve_precision(train.precision, on_gpu)
    accelerator = Accelerator(
        cpu=not on_gpu,
        mixed_precision=MIXED_PRECISION[precision],
        kwargs_handlers=[DistributedDataParallelKwargs(gradient_as_bucket_view=True, static_graph=True)],
    )
    # Launchers set OMP_NUM_THREADS=1; a CPU run would use one core without a word.
    torch.set_num_threads(train.threads or cores_per_process())
    if on_gpu:
        torch.backends.cuda.matmul.allow_tf32 = True
        torch.backends.cudnn.allow_tf32 = True
        torch.backends.cudnn.benchmark = True
    return accelerator


def resolve_precision(asked: str, on_gpu: bool) -> str:
    """auto -> bf16 on CUDA, fp32 on the CPU. Raises UserError for fp16 without CUDA."""
    if asked == "auto":
        return "bf16" if on_gpu else "fp32"
    if asked == "fp16" and not on_gpu:
        raise UserError("--train.precision fp16 needs CUDA (its loss scaling does): use fp32 or bf16 on the CPU")
    return asked


def process_group():
    """The group of all processes, or None in a run of one."""
    return dist.group.WORLD if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1 else None


def cores_per_process() -> int:
    """Cores this process may use, shared evenly between the processes of this machine; at least 1."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


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


def all_ranks_agree(holds: bool, device: torch.device) -> bool:
    """True on every rank if `holds` is true on every rank. One all-reduce."""
    group = process_group()
    if group is None:
        return holds
    flag = torch.tensor(int(holds), device=device)
    dist.all_reduce(flag, op=dist.ReduceOp.MIN, group=group)
    return bool(flag.item())
