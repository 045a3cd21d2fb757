"""A run of a study as the commands that anybody could type."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from fastvarcon.config import Config
from fastvarcon.studies.grid import Cell, Study

LAUNCH = ("--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no")


def flags(config: Config, defaults: Config) -> list[str]:
    """What a recipe with these defaults has to be told for `config`."""
    words: list[str] = []
    before = defaults.flat()
    for key, value in config.flat().items():
        if value == before[key] and key != "out":
            continue
        group, _, name = key.replace("_", "-").rpartition(".")
        prefix = f"--{group}." if group else "--"
        if isinstance(value, bool):
            words.append(prefix + ("" if value else "no-") + name)
        else:
            values = value if isinstance(value, list) else [value]
            words += [prefix + name, *(_near(one) if key in PATHS else str(one) for one in values)]
    return words


PATHS = ("data.train", "data.val", "out")


def _near(path: object) -> str:
    """A path as seen from the working directory, where it lies below it."""
    here, text = Path.cwd(), str(path)
    return os.path.relpath(text, here) if Path(text).is_absolute() and Path(text).is_relative_to(here) else text


def training(cell: Cell, recipe: Path, defaults: Config, processes: int) -> list[str]:
    own = [_near(recipe), *flags(cell.config, defaults)]
    if processes == 1:
        return ["python", *own]
    return ["accelerate", "launch", "--num_processes", str(processes), *LAUNCH, *own]


def evaluation(cell: Cell, study: Study, name: str) -> list[str]:
    return ["fastvarcon", "eval", name, _near(cell.config.out), *study.evaluations[name]]


def executable(command: list[str]) -> list[str]:
    """The same with the interpreter and the modules of this process, whatever PATH says."""
    program, *words = command
    match program:
        case "python":
            return [sys.executable, *words]
        case "accelerate":
            return [sys.executable, "-m", "accelerate.commands.accelerate_cli", *words]
        case _:
            return [sys.executable, "-m", "fastvarcon.cli", *words]
