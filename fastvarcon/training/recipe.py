"""The command line of a recipe: its settings as flags, its mistakes as one line."""

from __future__ import annotations

import os
import sys

import tyro

from fastvarcon.config import Config
from fastvarcon.errors import UserError


def run_recipe(defaults: Config, description: str | None) -> None:
    """Parse the flags over `defaults`, train, and exit with code 2 on a user's mistake.

    Every process of a launch comes here; only the first one prints the error.
    """
    config = tyro.cli(Config, default=defaults, description=description)
    try:
        from fastvarcon.training.trainer import train  # after the flags: --help must not wait for torch

        train(config)
    except UserError as error:
        if os.environ.get("RANK", "0") == "0":
            print(f"error: {error}", file=sys.stderr, flush=True)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    finally:
        _leave_group()


def _leave_group() -> None:
    """End the process group, if there is one: torch warns about groups that are left open."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
