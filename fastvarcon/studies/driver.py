"""The driver: from the command line of a study to its runs, its table and its figure.

OUT/POINT-seedK/     run folder of a cell, with its scores in eval/     OUT/POINT-seedK.log: what its commands said
OUT/STUDY.csv        a row for each finished run                        OUT/STUDY.png: drawn from it

The same command skips what is finished and resumes what was cut off. Table and figure are written after every run.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import shlex
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from tyro.conf import FlagCreatePairsOff

from fastvarcon.commands.settings import named_recipe, recipe_defaults
from fastvarcon.config import Config
from fastvarcon.errors import UserError, exits_cleanly
from fastvarcon.progress import Bar, format_seconds
from fastvarcon.run_folder import RunFolder
from fastvarcon.studies import commands, small
from fastvarcon.studies.figure import draw
from fastvarcon.studies.grid import Cell, Study, cells, varied
from fastvarcon.studies.launch import POLL_SECONDS, Child, Failed, Slot, slots, wait_for_lock
from fastvarcon.studies.report import print_report
from fastvarcon.studies.table import is_trained, missing_scores, read_table, row, write_table


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
    figure = flags.out / f"{study.name}.png"
    if flags.redraw is not None:
        rows = read_table(flags.redraw, study)
        flags.out.mkdir(parents=True, exist_ok=True)
        draw(study, rows, figure)
        return print(figure)
    config = _check(study, flags, base, recipe)
    if is_small:
        small.make_data(config.data)
    Driver(study, flags, cells(study, config, flags.seeds, flags.only), recipe, defaults).run()


def _check(study: Study, flags: Flags, base: Config, recipe: Path | None) -> Config:
    """The settings that all runs start from. Raises UserError for what cannot be."""
    if recipe is None:
        raise UserError("--recipe is missing: give a file such as recipes/cifar10.py, or --small for the digits")
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


@dataclass
class Running:
    """A run in a process of its own."""

    cell: Cell
    child: Child
    slot: Slot
    began: float = dataclasses.field(default_factory=time.perf_counter)


class Driver:
    """One call of a study."""

    def __init__(self, study: Study, flags: Flags, grid: list[Cell], recipe: Path, defaults: Config):
        self.study, self.flags, self.grid, self.recipe, self.defaults = study, flags, grid, recipe, defaults
        self.out = flags.out
        self.table, self.figure = self.out / f"{study.name}.csv", self.out / f"{study.name}.png"
        self.slots, self.processes = slots(flags.jobs, 1 if flags.here else flags.processes)
        self.rows: dict[str, dict[str, str]] = {}
        self.failures: dict[str, str] = {}
        self.start = time.perf_counter()

    def run(self) -> None:
        for cell in self.grid:
            RunFolder(cell.config.out).check(cell.config)
        self.rows = {one["run"]: one for one in read_table(self.table, self.study)}
        folder = RunFolder(self.out)
        folder.lock()
        try:
            self._run()
        finally:
            folder.unlock()

    def _run(self) -> None:
        done = [cell for cell in self.grid if is_trained(cell) and not missing_scores(cell, self.study)]
        self.rows |= {cell.name: row(cell, self.study, self._training(cell)) for cell in done}
        todo = [cell for cell in self.grid if cell not in done]
        for cell in todo:
            self.rows.pop(cell.name, None)
        self.left = self.planned = sum(cell.config.train.epochs for cell in todo)
        self.number = itertools.count(len(self.grid) - len(todo) + 1)
        self.bar = Bar(self.study.name, max(1, self.planned))
        try:
            self._say(f"{self.study.name}: {len(self.grid)} runs, {len(self.grid) - len(todo)} of them finished before")
            self._write()
            if self.flags.here:
                self._all_here(todo)
            else:
                self._all_in_processes(todo)
        finally:
            self.bar.close()
        if self.failures:
            name, why = next(iter(self.failures.items()))
            raise UserError(f"{len(self.failures)} of {len(self.grid)} runs failed, {name} first: {why}")
        print_report(self.study, list(self.rows.values()))
        print(f"{self.table}\n{self.figure}")

    # ---- in this process -------------------------------------------------------------------------------------------

    def _all_here(self, todo: list[Cell]) -> None:
        for cell in todo:
            self.bar.update(self.planned - self.left, cell.name)
            began = time.perf_counter()
            try:
                with self._log(cell).open("a", encoding="utf-8") as log, contextlib.redirect_stdout(log):
                    self._here(cell)
            except UserError as error:
                self._failed(cell, str(error))
            else:
                self._finished(cell, time.perf_counter() - began)

    def _here(self, cell: Cell) -> None:
        from fastvarcon.commands.evaluate import parse
        from fastvarcon.evaluation.job import evaluate
        from fastvarcon.training.trainer import train

        if not is_trained(cell) and train(cell.config) is None:
            raise SystemExit(143)  # asked to stop: the run is saved
        for name in missing_scores(cell, self.study):
            words = commands.evaluation(cell, self.study, name)
            evaluate(name, parse(words[2:]), shlex.join(words))

    # ---- in processes of their own ---------------------------------------------------------------------------------

    def _all_in_processes(self, todo: list[Cell]) -> None:
        waiting, free = iter(todo), list(self.slots)
        running: list[Running] = []
        try:
            while True:
                while free and (cell := next(waiting, None)) is not None:
                    wait_for_lock(cell.config.out)
                    slot = free.pop()
                    running.append(Running(cell, Child(self._commands(cell), self._log(cell), slot), slot))
                    self._say(f"{cell.name} begins, log {self._log(cell)}")
                if not running:
                    return
                for one in [one for one in running if self._has_ended(one)]:
                    running.remove(one)
                    free.append(one.slot)
                for one in running:
                    self.bar.update(self.planned - self.left, f"{one.cell.name}  {one.child.last_line()[:80]}")
                time.sleep(POLL_SECONDS)
        finally:
            for one in running:
                one.child.stop()

    def _has_ended(self, run: Running) -> bool:
        try:
            if not run.child.poll():
                return False
        except Failed as failed:
            self._failed(run.cell, str(failed))
        else:
            self._finished(run.cell, time.perf_counter() - run.began)
        return True

    def _commands(self, cell: Cell) -> Iterator[list[str]]:
        """What is still to be done for a run."""
        if not is_trained(cell):
            yield self._training(cell)
            if not is_trained(cell):
                raise Failed("its training was stopped")
        for name in missing_scores(cell, self.study):
            yield commands.evaluation(cell, self.study, name)

    def _training(self, cell: Cell) -> list[str]:
        return commands.training(cell, self.recipe, self.defaults, self.processes)

    # ---- what is said and written ----------------------------------------------------------------------------------

    def _log(self, cell: Cell) -> Path:
        return self.out / f"{cell.name}.log"

    def _write(self) -> None:
        """Rows of the grid in its order, then others that the table has had before."""
        names = [cell.name for cell in self.grid if cell.name in self.rows]
        rows = [self.rows[name] for name in dict.fromkeys((*names, *self.rows))]
        if rows:
            write_table(rows, self.table)
            draw(self.study, rows, self.figure)

    def _finished(self, cell: Cell, seconds: float) -> None:
        self.left -= cell.config.train.epochs
        scores = self.rows[cell.name] = row(cell, self.study, self._training(cell))
        self._write()
        rate = (time.perf_counter() - self.start) / (self.planned - self.left)
        self._say(
            f"[{next(self.number)}/{len(self.grid)}] {cell.name}  linear {float(scores['linear_top1']):.2%}  "
            f"kNN {float(scores['knn_top1']):.2%}  in {format_seconds(seconds)}  "
            f"left {format_seconds(rate * self.left)}"
        )
        self.bar.update(self.planned - self.left, "")

    def _failed(self, cell: Cell, why: str) -> None:
        """One run that diverges must not end a night of others; a mistake that all would make ends it at once."""
        if not self.rows:
            raise UserError(f"{cell.name}: {why}")
        self.left -= cell.config.train.epochs
        next(self.number)
        self.failures[cell.name] = why
        self._say(f"{cell.name} failed: {why}")

    def _say(self, line: str) -> None:
        if self.bar.shown:
            self.bar.say(line)
        else:
            print(line, flush=True)
