"""What a run writes down and shows while it goes: metrics.jsonl and trackers, and a progress bar or plain lines."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from pathlib import Path

from accelerate.tracking import GeneralTracker

from fastvarcon.progress import Bar, format_seconds
from fastvarcon.run_folder import read_metrics
from fastvarcon.terminal import say
from fastvarcon.training.trackers import scalars


class MetricsLog:
    """Appends rows to metrics.jsonl, one JSON object a line, each with its `step` (optimiser steps done).

    Their numbers go to the `trackers` as well, which are finished by `close`.
    """

    def __init__(self, path: Path, resume_step: int, trackers: Sequence[GeneralTracker] = ()):
        """Rows behind `resume_step` come from a part of the run that was lost and will be made again: drop them."""
        self._path, self._trackers = path, trackers
        kept = [row for row in read_metrics(path) if row["step"] <= resume_step]
        aside = path.with_name(path.name + ".partial")
        aside.write_text("".join(json.dumps(row) + "\n" for row in kept), encoding="utf-8")
        os.replace(aside, path)
        self._file = open(path, "a", encoding="utf-8")  # noqa: SIM115 (closed by close)

    def write(self, row: dict) -> None:
        short = {name: float(f"{value:.9g}") if isinstance(value, float) else value for name, value in row.items()}
        self._file.write(json.dumps(short) + "\n")
        self._file.flush()
        for tracker in self._trackers:
            tracker.log(scalars(row), step=row["step"])

    def close(self) -> None:
        for tracker in self._trackers:
            tracker.finish()
        self._file.close()


class Display:
    """A progress bar on a terminal, plain lines elsewhere, silence on every rank but the first."""

    def __init__(self, total_steps: int, done_steps: int, enabled: bool):
        self._total = total_steps
        self._start_step, self._start = done_steps, time.perf_counter()
        self._bar = Bar("training", total_steps, done_steps) if enabled else None

    def say(self, text: str) -> None:
        """A line that stays."""
        if self._bar is not None:
            self._bar.say(text) if self._bar.shown else say(text)

    def step(self, step: int, text: str) -> None:
        """Progress after `step` steps with its figures."""
        done = max(1, step - self._start_step)
        left = (time.perf_counter() - self._start) / done * (self._total - step)
        text = f"{text}  left {format_seconds(left)}"
        if self._bar is not None:
            self._bar.update(step, text) if self._bar.shown else print(f"step {step}/{self._total}  {text}", flush=True)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
