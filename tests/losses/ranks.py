"""Several gloo processes that are forks of this one: torch is imported once for all of them."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable

import torch
import torch.distributed as dist


def on_ranks(world: int, check: Callable[[], None]) -> None:
    """Run `check` on `world` processes of a group, each of which prints "rank R of W agrees" if it returns."""
    start = "fork" if sys.platform == "linux" else "spawn"
    with tempfile.TemporaryDirectory() as folder:
        arguments = (world, f"{folder}/meeting", check)
        torch.multiprocessing.start_processes(_rank, arguments, nprocs=world, start_method=start)


def _rank(rank: int, world: int, meeting: str, check: Callable[[], None]) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=world)
    check()
    dist.destroy_process_group()
    print(f"rank {rank} of {world} agrees", flush=True)
    os._exit(0)  # threads of gloo that are ending as well may abort an interpreter that ends
