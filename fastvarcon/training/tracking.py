"""What a run writes down and shows while it goes: metrics.jsonl, and a progress bar or plain lines."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from fastvarcon.progress import format_seconds
from fastvarcon.run_folder import read_metrics


class MetricsLog:
    """Appends rows to metrics.jsonl, one JSON object a line, each with its `step` (optimiser steps done)."""

    def __init__(self, path: Path, resume_step: int):
        """Rows behind `resume_step` come from a part of the run that was lost and will be made again: drop them."""
        self._path = path
        kept = [row for row in read_metrics(path) if row["step"] <= resume_step]
        aside = path.with_name(path.name + ".partial")
        aside.write_text("".join(json.dumps(row) + "\n" for row in kept), encoding="utf-8")
        os.replace(aside, path)
        self._file = open(path, "a", encoding="utf-8")  # noqa: SIM115 (closed by close)

    def write(self, row: dict) -> None:
        self._file.write(json.dumps({k: round(v, 8) if isinstance(v, float) else v for k, v in row.items()}) + "\n")
        self._file.flush()

    def close(self) -> None:
        self._file.close()


class Display:
    """A progress bar on a terminal, plain lines elsewhere, silence on every rank but the first."""

    def __init__(self, total_steps: int, done_steps: int, enabled: bool):
        self._total, self._enabled = total_steps, enabled
        self._start_step, self._start = done_steps, time.perf_counter()
        self._bar: Progress | None = None
        if enabled and sys.stdout.isatty():
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                TextColumn("{task.percentage:3.0f}%"),
                TextColumn("{task.fields[text]}"),
                console=Console(),
            )
            self._task = self._bar.add_task("training", total=total_steps, completed=done_steps, text="")
            self._bar.start()

    def say(self, text: str) -> None:
        """A line that stays."""
        if self._bar is not None:
            self._bar.console.print(text, highlight=False, markup=False)
        elif self._enabled:
            print(text, flush=True)

    def step(self, step: int, text: str) -> None:
        """Progress after `step` steps with its figures."""
        done = max(1, step - self._start_step)
        left = (time.perf_counter() - self._start) / done * (self._total - step)
        text = f"{text}  left {format_seconds(left)}"
        if self._bar is not None:
            self._bar.update(self._task, completed=step, text=text)
        elif self._enabled:
            print(f"step {step}/{self._total}  {text}", flush=True)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.stop()
