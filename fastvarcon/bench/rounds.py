"""Runs competitors in turn, each in a process of its own, so that none profits from another's caches or threads.

A competitor is a function of a job that yields the number of items after each batch, for ever. All of them are set up
and warmed up first; then they are measured round by round, one at a time. So a slow spell of the machine hits all of
them, and the spread over the rounds is that of the machine as well as that of the program. Between its rounds a
competitor is stopped with all its threads and workers: nobody prepares batches at the expense of another.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import statistics
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

Competitor = Callable[[Any], Iterator[float]]
"""An iterator with a method `figures() -> dict[str, float]` is asked for those of each round as well."""
WARM_UP_BATCHES = 8


@dataclass
class Measured:
    """Of one competitor, a value per round."""

    per_second: list[float] = field(default_factory=list)
    cpu_seconds_per_1000: list[float] = field(default_factory=list)
    figures: list[dict[str, float]] = field(default_factory=list)
    """What the competitor itself tells of a round."""
    failure: str | None = None
    """Why it could not run, in one line."""

    @property
    def median(self) -> float:
        return statistics.median(self.per_second)

    @property
    def cpu(self) -> float:
        return statistics.median(self.cpu_seconds_per_1000)

    def figure(self, name: str) -> float:
        """Median of a figure that the competitor tells."""
        return statistics.median(figures[name] for figures in self.figures)


def measure(
    competitors: dict[str, Competitor],
    job: object,
    *,
    rounds: int,
    seconds: float,
    warm_up: int = WARM_UP_BATCHES,
    on_step: Callable[[str], None] = lambda name: None,
) -> dict[str, Measured]:
    """Items per second and CPU-seconds per 1,000 items of every competitor, `rounds` times for `seconds` each."""
    context = multiprocessing.get_context("spawn")
    results = {name: Measured() for name in competitors}
    with contextlib.ExitStack() as running:
        ends, processes = {}, {}
        for name, competitor in competitors.items():
            on_step(f"{name}: setting up")
            ends[name], theirs = context.Pipe()
            process = context.Process(target=_compete, args=(competitor, job, theirs, warm_up), name=name)
            process.start()
            theirs.close()
            running.callback(_end, process, ends[name])
            _ask(process, ends[name], 0.0, results[name], keep=False)  # the first batches: compilers run, caches fill
            processes[name] = process
        for number in range(rounds):
            for name, end in ends.items():
                if results[name].failure is None:
                    on_step(f"{name}: round {number + 1} of {rounds}")
                    _ask(processes[name], end, seconds, results[name], keep=True)
    return results


def _ask(process, end, seconds: float, result: Measured, keep: bool) -> None:
    """Let a competitor run for a round, or, for 0 seconds, its first batches; then stop it where it stands."""
    try:
        _signal(process, signal.SIGCONT)
        end.send(seconds)
        answer = end.recv()
        _signal(process, signal.SIGSTOP)
    except (EOFError, BrokenPipeError):
        answer = "its process died"
    if isinstance(answer, str):
        result.failure = answer
    elif keep:
        items, wall, cpu, figures = answer
        result.per_second.append(items / wall)
        result.cpu_seconds_per_1000.append(1000 * cpu / items)
        result.figures.append(figures)


def _signal(process, number: int) -> None:
    """To the process and all that it started; while it is not yet the leader of a group there is nothing to stop."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, number)


def _end(process, end) -> None:
    _signal(process, signal.SIGCONT)
    end.close()
    process.join(timeout=10)
    if process.is_alive():
        _signal(process, signal.SIGKILL)
        process.join()


def _compete(competitor: Competitor, job: object, end, warm_up: int) -> None:
    os.setpgrp()
    try:
        batches = competitor(job)
        while True:
            try:
                seconds = end.recv()
            except EOFError:
                return
            cpu = cpu_seconds()
            items, elapsed = run_for(batches, seconds, warm_up)
            cpu = cpu_seconds() - cpu
            end.send((items, elapsed, cpu, batches.figures() if hasattr(batches, "figures") else {}))
    except BaseException as error:
        with contextlib.suppress(BrokenPipeError):
            end.send(str(error).split("\n")[0] or traceback.format_exc(limit=1).split("\n")[-2])
        if not isinstance(error, Exception):
            raise


def run_for(batches: Iterator[float], seconds: float, warm_up: int = WARM_UP_BATCHES) -> tuple[float, float]:
    """Items and seconds of the batches that `seconds` are enough for; for 0 seconds those of the first `warm_up`."""
    items, start = 0.0, time.perf_counter()
    for number, count in enumerate(batches, 1):
        items += count
        elapsed = time.perf_counter() - start
        if elapsed >= seconds and items and (seconds or number >= warm_up):
            break
    return items, elapsed


def cpu_seconds() -> float:
    """User and system time of this process, its threads and its worker processes so far."""
    return time.process_time() + sum(map(_cpu_of, multiprocessing.active_children()))


def _cpu_of(process) -> float:
    with contextlib.suppress(OSError), open(f"/proc/{process.pid}/stat") as stat:
        fields = stat.read().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return 0.0
