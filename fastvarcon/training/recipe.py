"""The command line of a recipe: its settings as flags, its mistakes as one line."""

from __future__ import annotations

import os
import sys

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
    try:
        config.validate()  # before torch is loaded, which takes seconds
        from fastvarcon.training.trainer import train

        train(config)
    except UserError:
        if os.environ.get("RANK", "0") != "0" and not _have_joined():
            raise SystemExit(2) from None
        raise
    if _have_joined():  # not behind an error: it may wait for ranks that are gone
        sys.modules["torch.distributed"].destroy_process_group()


def _have_joined() -> bool:
    """Whether the processes of this launch know each other already."""
    dist = sys.modules.get("torch.distributed")
    return dist is not None and dist.is_initialized()
