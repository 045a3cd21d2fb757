"""What a run writes down and shows while it goes: metrics.jsonl and trackers, and a progress bar or plain lines.

A full disk, a quota or a tracker's server that is gone ends none of it: what cannot be written is said, and waits.
"""

from __future__ import annotations

import functools
import itertools
import json
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from accelerate.tracking import GeneralTracker

from fastvarcon.progress import Bar, format_seconds
from fastvarcon.run_folder import read_metrics
from fastvarcon.terminal import say
from fastvarcon.training.trackers import scalars

WAITING_BYTES = 4 << 20  # some 13,000 rows


class MetricsLog:
    """Appends rows to metrics.jsonl, one JSON object a line, each with its `step` (optimiser steps done).

    Their numbers go to the `trackers` as well, which are finished by `close`.

    Args:
        resume_step: rows after it come from a part of the run that was lost and will be made again: they are dropped.
        waiting: of an earlier log, whose rows up to `resume_step` the disk refused.
        warn: is told what cannot be written, once.

    Attributes:
        waiting: rows that the disk refuses, as text; each `write` tries again.
        lost: rows beyond WAITING_BYTES of them.
    """

    def __init__(
        self,
        path: Path,
        resume_step: int,
        trackers: Sequence[GeneralTracker] = (),
        *,
        waiting: str = "",
        warn: Callable[[str], None] = print,
    ):
        self._path, self._trackers, self._warn = path, list(trackers), warn
        rows = list(itertools.takewhile(lambda row: row["step"] <= resume_step, read_metrics(path)))
        self._size = _bytes_of(path, len(rows))
        self.waiting, self.lost = _without(waiting, rows), 0
        self._refusal: OSError | None = None
        self._drain()

    def write(self, row: dict) -> None:
        short = {name: float(f"{value:.9g}") if isinstance(value, float) else value for name, value in row.items()}
        line = json.dumps(short) + "\n"
        if len(self.waiting) + len(line) > WAITING_BYTES:
            self.lost += 1
        else:
            self.waiting += line
        self._drain()
        for tracker in [*self._trackers]:
            self._tell(tracker, functools.partial(tracker.log, scalars(row), step=row["step"]))

    def missing(self) -> str | None:
        """What the file still lacks after a last attempt, and why."""
        self._drain()
        rows = self.waiting.count("\n") + self.lost
        if not rows:
            return None
        why = "more than fit into memory" if self._refusal is None else self._refusal.strerror or self._refusal
        return f"{rows} rows of {self._path.name} ({why})"

    def close(self) -> None:
        self._drain()
        for tracker in [*self._trackers]:
            self._tell(tracker, tracker.finish)

    def _drain(self) -> None:
        """Append what waits. The file ends behind a complete row, whatever happens."""
        try:
            with open(self._path, "r+b", buffering=0, opener=_open_or_make) as file:
                self._size = min(self._size, os.fstat(file.fileno()).st_size)  # somebody may have emptied it
                file.truncate(self._size)
                file.seek(self._size)
                rest = content = memoryview(self.waiting.encode())
                while rest:
                    rest = rest[file.write(rest) :]
        except OSError as error:
            if self._refusal is None:
                self._warn(f"{self._path} cannot be written ({error.strerror or error}): training goes on, rows wait")
            self._refusal = error
            return
        self._size += len(content)
        self.waiting, self._refusal = "", None

    def _tell(self, tracker: GeneralTracker, action: Callable[[], None]) -> None:
        """`action` of a tracker. One that fails, for want of disk or network, is told no more."""
        try:
            action()
        except Exception as error:
            self._trackers.remove(tracker)
            reason = str(error).partition("\n")[0] or type(error).__name__
            self._warn(f"tracker {tracker.name} failed ({reason}) and gets no more figures: {self._path} has all")


def _open_or_make(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CREAT, 0o666)


def _bytes_of(path: Path, rows: int) -> int:
    """Size of the first rows of a metrics.jsonl."""
    lines = path.read_bytes().splitlines(keepends=True) if rows else []
    return sum(len(line) for line in lines[:rows] if line.endswith(b"\n"))


def _without(waiting: str, rows: list[dict]) -> str:
    """Those of the lines that are not among the rows: there was room for them after they had been saved."""
    have = {(row["kind"], row["step"]) for row in rows}
    lines = waiting.splitlines(keepends=True)
    return "".join(line for line in lines if (row := json.loads(line)) and (row["kind"], row["step"]) not in have)


class Display:
    """A progress bar on a terminal, plain lines elsewhere, silence on every rank but the first."""

    def __init__(self, total_steps: int, done_steps: int, enabled: bool):
        self._total = total_steps
        self._start_step, self._start = done_steps, time.perf_counter()
        self._bar = Bar("training", total_steps, done_steps) if enabled else None

    def say(self, text: str) -> None:
        """A line that stays."""
        if self._bar is not None:
            self._bar.say(text) if self._bar.shown else _print(text)

    def step(self, step: int, text: str) -> None:
        """Progress after `step` steps with its figures."""
        done = max(1, step - self._start_step)
        left = (time.perf_counter() - self._start) / done * (self._total - step)
        text = f"{text}  left {format_seconds(left)}"
        if self._bar is not None:
            self._bar.update(step, text) if self._bar.shown else _print(f"step {step}/{self._total}  {text}")

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()


def _print(text: str) -> None:
    """A line of the log. A log file on a full disk does without it; a reader that is gone ends the program."""
    try:
        say(text)
    except BrokenPipeError:
        raise
    except OSError:
        pass
