"""The command line of a study: the flags of its recipe and its own."""

from __future__ import annotations

import dataclasses
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro
from tyro.conf import FlagCreatePairsOff

from fastvarcon.commands.settings import named_recipe, recipe_defaults
from fastvarcon.config import Config
from fastvarcon.errors import UserError, exits_cleanly
from fastvarcon.studies import small
from fastvarcon.studies.grid import Study, cells, varied


@dataclass
class Flags(Config):
    """The flags of a recipe, and those of a study."""

    out: Path = Path("runs/studies")
    """Folder of the study: its runs, its table (.csv) and its figure (.png). The same command goes on."""
    recipe: Path | None = None
    """File whose settings and flags the runs have, as recipes/cifar10.py."""
    seeds: int = 3
    """Runs of each point, with seeds from --train.seed on."""
    only: tuple[str, ...] = ()
    """Names of the points, or of the lines of the figure, to run; default: all."""
    small: Annotated[bool, FlagCreatePairsOff] = False
    """In place of --recipe: scikit-learn's digits, which need no download, and so few epochs that a CPU does it."""
    here: Annotated[bool, FlagCreatePairsOff] = False
    """Run all in this process, which saves the start of three for each small run (--small does)."""
    jobs: int = 1
    """Runs at a time, which share the GPUs and cores of this machine."""
    processes: int = 0
    """Processes of a run; 0 = one for each GPU that it may use, else one."""
    redraw: Path | None = None
    """Only draw the figure again, from this table, as OUT/STUDY.png."""


@exits_cleanly
def run_study(study: Study, description: str | None) -> None:
    """Parse the flags of the command line and do the study. UserError: one line, exit code 2."""
    recipe = named_recipe(sys.argv)
    is_small = "--small" in sys.argv
    if is_small and recipe is not None:
        raise UserError("--small has a recipe of its own: leave out --recipe")
    recipe = small.recipe() if is_small else recipe
    defaults = Config() if recipe is None else recipe_defaults(recipe)
    base = small.settings(defaults) if is_small else defaults
    given = {field.name: getattr(base, field.name) for field in dataclasses.fields(Config)}
    given |= {"out": Path("runs/studies") / (f"{study.name}-small" if is_small else study.name)}
    given |= {"seeds": small.SEEDS, "here": True} if is_small else {}
    flags = tyro.cli(Flags, default=Flags(**given), description="\n ".join((description or "").splitlines()))
    if flags.redraw is not None:
        return _redraw(study, flags.redraw, flags.out / f"{study.name}.png")
    if recipe is None:
        raise UserError("--recipe is missing: give a file such as recipes/cifar10.py, or --small for the digits")
    config = _check(study, flags, base)
    if is_small:
        small.make_data(config.data)
    grid = cells(study, config, flags.seeds, flags.only)
    from fastvarcon.studies.driver import Driver

    how: dict[str, Any] = {"here": flags.here, "jobs": flags.jobs, "processes": flags.processes}
    Driver(study, grid, flags.out, recipe, defaults, **how).run()


def _redraw(study: Study, table: Path, figure: Path) -> None:
    from fastvarcon.studies.figure import draw
    from fastvarcon.studies.table import read_table

    if not table.exists():
        raise UserError(f"--redraw {table} does not exist: give the .csv of a study")
    rows = read_table(table, study)
    figure.parent.mkdir(parents=True, exist_ok=True)
    draw(study, rows, figure)
    print(figure)


def _check(study: Study, flags: Flags, base: Config) -> Config:
    """The settings that all runs start from. Raises UserError for what cannot be."""
    if min(flags.seeds, flags.jobs) < 1 or flags.processes < 0:
        raise UserError("--seeds and --jobs must be at least 1, --processes 0 or more")
    if flags.here and (flags.jobs > 1 or flags.processes > 1):
        raise UserError("--here is one process: leave out --jobs and --processes")
    config = Config(**{field.name: getattr(flags, field.name) for field in dataclasses.fields(Config)})
    before, after = base.flat(), config.flat()
    taken = [key for key in sorted(varied(study)) if after[key] != before[key]]
    if taken:
        raise UserError(f"--{taken[0].replace('_', '-')} is what the study {study.name} sets: leave it out")
    if config.data.val is None:
        raise UserError("--data.val is missing: give the held-out file that the scores are of")
    return config
