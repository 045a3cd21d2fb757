"""Commands that take the settings of a recipe: `--recipe recipes/cifar10.py`, then the recipe's own flags."""

from __future__ import annotations

import functools
import inspect
import itertools
import runpy
from collections.abc import Callable, Mapping
from pathlib import Path

from fastvarcon.config import Config
from fastvarcon.errors import UserError


def with_recipe(commands: Mapping[str, Callable], argv: list[str]) -> dict[str, Callable]:
    """The commands; a command with a parameter `config` gets the defaults of the recipe that `argv` names."""
    named = named_recipe(argv)
    defaults = Config() if named is None else recipe_defaults(named)
    return {
        name: functools.partial(command, config=defaults)
        if "config" in inspect.signature(command).parameters
        else command
        for name, command in commands.items()
    }


def named_recipe(argv: list[str]) -> Path | None:
    """The last --recipe among the words of a command line."""
    named = [value for flag, value in itertools.pairwise(argv) if flag == "--recipe"]
    named += [word.removeprefix("--recipe=") for word in argv if word.startswith("--recipe=")]
    return Path(named[-1]) if named else None


def recipe_defaults(path: Path) -> Config:
    """DEFAULTS of a recipe. Raises UserError if the file is not a recipe."""
    if not path.is_file():
        raise UserError(f"--recipe {path} does not exist: give a file such as recipes/cifar10.py")
    try:
        defaults = runpy.run_path(str(path)).get("DEFAULTS")
    except (SyntaxError, UnicodeDecodeError) as error:
        raise UserError(f"--recipe {path} is not Python ({error}): give a file such as recipes/cifar10.py") from None
    if not isinstance(defaults, Config):
        raise UserError(f"--recipe {path} has no DEFAULTS, a fastvarcon.Config: give a file such as recipes/cifar10.py")
    return defaults
