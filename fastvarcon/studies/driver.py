"""The runs of a study, one after another or some at a time, and what comes of them.

OUT/POINT-seedK/     run folder of a cell, with its scores in eval/     OUT/POINT-seedK.log: what its commands said
OUT/STUDY.csv        a row for each finished run                        OUT/STUDY.png: drawn from it

The same command skips what is finished and resumes what was cut off. The table is written after every run, the figure
when the study leaves.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import shlex
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from fastvarcon.config import Config
from fastvarcon.errors import UserError
from fastvarcon.evaluation.options import EvalOptions
from fastvarcon.progress import Bar, format_seconds
from fastvarcon.run_folder import RunFolder
from fastvarcon.studies import commands
from fastvarcon.studies.figure import draw
from fastvarcon.studies.grid import Cell, Study
from fastvarcon.studies.launch import POLL_SECONDS, Child, Failed, Slot, slots, wait_for_lock
from fastvarcon.studies.report import print_report
from fastvarcon.studies.table import is_trained, missing_scores, read_table, row, write_table
from fastvarcon.terminal import say
from fastvarcon.whole_file import NotWritten

SHOW_SECONDS = 60.0


@dataclass
class Running:
    """A run in a process of its own."""

    cell: Cell
    child: Child
    slot: Slot
    began: float = dataclasses.field(default_factory=time.perf_counter)


class Driver:
    """One call of a study.

    Args:
        out: folder of the study.
        recipe: file that processes of their own run; defaults: its settings, which need no flags.
        here, jobs, processes: see `command_line.Flags`.
    """

    def __init__(
        self, study: Study, grid: list[Cell], out: Path, recipe: Path, defaults: Config, *, here: bool, jobs: int,
        processes: int,
    ):  # fmt: skip
        self.study, self.grid, self.out, self.here = study, grid, out, here
        self.recipe, self.defaults = recipe, defaults
        self.table, self.figure = out / f"{study.name}.csv", out / f"{study.name}.png"
        self.slots, self.processes = slots(jobs, 1 if here else processes)
        self.rows: dict[str, dict[str, str]] = {}
        self.failures: dict[str, str] = {}
        self.unwritten: dict[Path, NotWritten] = {}
        self.start = self.shown = time.perf_counter()

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
            if self.here:
                self._all_here(todo)
            else:
                self._all_in_processes(todo)
        finally:
            self.bar.close()
            self._draw()
        if self.failures:
            name, why = next(iter(self.failures.items()))
            raise UserError(f"{len(self.failures)} of {len(self.grid)} runs failed, {name} first: {why}")
        print_report(self.study, list(self.rows.values()))
        for error in self.unwritten.values():
            raise error
        say(str(self.table), str(self.figure))

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

        wait_for_lock(cell.config.out)
        if not is_trained(cell) and train(cell.config) is None:
            raise SystemExit(143)  # asked to stop: the run is saved
        for name in missing_scores(cell, self.study):
            words = commands.evaluation(cell, self.study, name)
            options = parse(words[2:])
            assert isinstance(options, EvalOptions)
            evaluate(name, options, shlex.join(words))

    # ---- in processes of their own ---------------------------------------------------------------------------------

    def _all_in_processes(self, todo: list[Cell]) -> None:
        waiting, free = iter(todo), list(self.slots)
        running: list[Running] = []
        try:
            while True:
                while free and (cell := next(waiting, None)) is not None:
                    slot = free.pop()
                    running.append(Running(cell, Child(self._commands(cell), self._log(cell), slot), slot))
                    self._say(f"{cell.name} begins, log {self._log(cell)}")
                if not running:
                    return
                for one in [one for one in running if self._has_ended(one)]:
                    running.remove(one)
                    free.append(one.slot)
                self._show(running)
                time.sleep(POLL_SECONDS)
        finally:
            for one in running:
                one.child.stop()

    def _has_ended(self, run: Running) -> bool:
        try:
            if not run.child.poll():
                return False
        except (Failed, UserError) as error:
            self._failed(run.cell, str(error))
        else:
            self._finished(run.cell, time.perf_counter() - run.began)
        return True

    def _commands(self, cell: Cell) -> Iterator[list[str]]:
        """What is still to be done for a run."""
        wait_for_lock(cell.config.out)
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
        self.rows = {name: self.rows[name] for name in (*names, *self.rows)}
        if self.rows:
            self._attempt(self.table, lambda: write_table(list(self.rows.values()), self.table))

    def _draw(self) -> None:
        if self.rows:
            self._attempt(self.figure, lambda: draw(self.study, list(self.rows.values()), self.figure))

    def _attempt(self, path: Path, write: Callable[[], None]) -> None:
        """What cannot be written ends no night of runs: it is said, and tried again after the next one."""
        self.unwritten.pop(path, None)
        try:
            write()
        except NotWritten as error:
            self.unwritten[path] = error
            self._say(f"warning: {error}")

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

    def _show(self, running: list[Running]) -> None:
        """What the runs say of themselves: all the time on a terminal, once a minute elsewhere."""
        if not running or not (self.bar.shown or time.perf_counter() - self.shown > SHOW_SECONDS):
            return
        self.shown = time.perf_counter()
        for one in running:
            text = f"{one.cell.name}  {one.child.last_line()}"
            if self.bar.shown:
                self.bar.update(self.planned - self.left, text[:100])
            else:
                self._say(text)

    def _say(self, line: str) -> None:
        if self.bar.shown:
            self.bar.say(line)
        else:
            print(line, flush=True)
