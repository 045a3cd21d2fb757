"""Progress of long work: a bar on a terminal, a line every few seconds elsewhere."""

from __future__ import annotations

import sys
import time

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from fastvarcon.terminal import say
from fastvarcon.visible import visible

LINE_SECONDS = 5.0


class Bar:
    """A progress bar with a text behind it, on a terminal; elsewhere `shown` is false and nothing is drawn."""

    def __init__(self, description: str, total: int, completed: int = 0):
        self.shown = sys.stdout.isatty()
        columns = TextColumn("{task.description}", markup=False), BarColumn(), TextColumn("{task.percentage:3.0f}%")
        self._progress = Progress(*columns, TextColumn("{task.fields[text]}"), console=Console())
        self._task = self._progress.add_task(visible(description), total=total, completed=completed, text="")
        if self.shown:
            self._progress.start()

    def update(self, completed: int, text: str) -> None:
        self._progress.update(self._task, completed=completed, text=text)

    def say(self, text: str) -> None:
        """A line that stays, above the bar."""
        self._progress.console.print(visible(text), highlight=False, markup=False, soft_wrap=True)

    def close(self) -> None:
        if self.shown:
            self._progress.stop()


class Counter:
    """Counts images of a known total; a context manager. Rate and time left are those of this process alone."""

    def __init__(self, description: str, total: int):
        self._description, self._total = description, total
        self._bar = Bar(description, total)
        self.begin(0)

    def begin(self, done: int) -> None:
        """The work starts now; an earlier process has done so many images already."""
        self._done = self._before = done
        self._start = self._last_line = time.perf_counter()

    def say(self, line: str) -> None:
        """A line that stays."""
        if self._bar.shown:
            self._bar.say(line)
        else:
            say(line)

    def advance(self, images: int) -> None:
        self._done += images
        now = time.perf_counter()
        rate = (self._done - self._before) / max(now - self._start, 1e-9)
        left = format_seconds((self._total - self._done) / max(rate, 1e-9))
        text = f"{self._done:,}/{self._total:,} images  {rate:,.0f} images/s  left {left}"
        if self._bar.shown:
            self._bar.update(self._done, text)
        elif self._done >= self._total or now - self._last_line > LINE_SECONDS:
            self._last_line = now
            say(f"{self._description}  {text}")

    def __enter__(self) -> Counter:
        return self

    def __exit__(self, *exception: object) -> None:
        self._bar.close()


def format_seconds(seconds: float) -> str:
    """Seconds -> "1:02:03" or "2:03"."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
