"""The command line of a recipe: its settings as flags, its mistakes as one line."""

from __future__ import annotations

import os

import tyro

from fastvarcon.config import Config
from fastvarcon.errors import UserError, exits_cleanly


@exits_cleanly
def run_recipe(defaults: Config, description: str | None) -> None:
    """Parse the flags over `defaults`, train, and exit with code 2 on a user's mistake.

    Every process of a launch comes here. Before they have joined, all of them meet the same mistake, and the first
    one says it; after that, the one that has it.
    """
    # tyro joins the lines of a paragraph unless they are indented; a recipe's docstring is a list of lines
    description = "\n ".join((description or "").splitlines())
    config = tyro.cli(Config, default=defaults, description=description)
    import torch.distributed as dist

    from fastvarcon.training.trainer import train  # after the flags: --help must not wait for torch

    try:
        train(config)
    except UserError:
        if os.environ.get("RANK", "0") != "0" and not dist.is_initialized():
            raise SystemExit(2) from None
        raise
    if dist.is_initialized():  # not behind an error: it may wait for ranks that are gone
        dist.destroy_process_group()
