"""Time and memory of a call, on the CPU or on a GPU, several competitors in turns.

On the CPU every competitor runs in a process of its own (rounds.py). On a GPU all of them run in this process, in one
context, and two times are taken of each, both with the second-level cache flushed before every call:

    wall    from the call on an idle GPU until its result is there, as whoever waits for it sees it
    device  between two CUDA events around a replay of the call (or of its device part) as a CUDA graph: no launch cost.
            Where a call waits for the GPU on its way it has no graph, and the events lie around the call itself.
"""

from __future__ import annotations

import functools
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch

from fastvarcon.bench.rounds import Competitor, measure

Call = Callable[[], object]
CALLS_LEAST = 3
FLUSH_BYTES = 256 << 20  # several times the second-level cache of any GPU so far


@dataclass(frozen=True)
class Work:
    call: Call
    """The work, as a user writes it."""
    device_part: Call | None = None
    """What a CUDA graph holds of it; None = the whole call."""
    capturable: bool = True
    """It never waits for the GPU."""
    units: float = 1
    """How many times a call does what the job asks for."""


Setup = Callable[[Any], Work]
"""Of a job. On the CPU it is called in another process: a function of a module, or a partial of one."""


@dataclass
class Times:
    """Of one competitor: seconds a unit of work, a value per round."""

    wall: list[float] = field(default_factory=list)
    device: list[float] = field(default_factory=list)
    """On a GPU only."""
    device_method: str = ""
    """"graph" or "events"."""
    failure: str | None = None
    """Why it could not run, in one line."""

    @property
    def median(self) -> float:
        return statistics.median(self.wall)


def measure_calls(
    setups: dict[str, Setup],
    job: object,
    *,
    device: str,
    rounds: int,
    seconds: float,
    on_step: Callable[[str], None] = lambda name: None,
) -> dict[str, Times]:
    """Times of every competitor, `rounds` times for about `seconds` each, in turns."""
    if device == "cuda":
        return _on_gpu(setups, job, rounds, seconds, on_step)
    forever: dict[str, Competitor] = {name: functools.partial(repeat, setup) for name, setup in setups.items()}
    results = measure(forever, job, rounds=rounds, seconds=seconds, warm_up=CALLS_LEAST, on_step=on_step)
    return {
        name: Times(wall=[1 / rate for rate in result.per_second], failure=result.failure)
        for name, result in results.items()
    }


def repeat(setup: Setup, job: object) -> Iterator[float]:
    """A competitor of rounds.py."""
    work = setup(job)
    while True:
        work.call()
        yield work.units


def _on_gpu(setups, job, rounds, seconds, on_step) -> dict[str, Times]:
    results, works = {name: Times() for name in setups}, {}
    for name, setup in setups.items():
        on_step(f"{name}: setting up")
        with _failing(results[name]):
            works[name] = setup(job)
            for _ in range(CALLS_LEAST):  # compilers run, allocators fill
                works[name].call()
            torch.cuda.synchronize()
    for number in range(rounds):
        for name, work in works.items():
            if results[name].failure is None:
                on_step(f"{name}: round {number + 1} of {rounds}")
                with _failing(results[name]):
                    results[name].wall.append(statistics.median(wall_seconds(work.call, seconds)) / work.units)
                    replay = capture(work.device_part or work.call) if work.capturable else work.call
                    results[name].device.append(statistics.median(device_seconds(replay, seconds)) / work.units)
                    results[name].device_method = "graph" if work.capturable else "events"
                replay = None
                torch.cuda.empty_cache()  # the next one may need all of it
    return results


class _failing:
    """Notes an exception as the failure of a competitor, and lets the others run."""

    def __init__(self, times: Times):
        self.times = times

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind, error, traceback) -> bool:
        if isinstance(error, Exception):
            self.times.failure = first_line(error)
            torch.cuda.empty_cache()
        return isinstance(error, Exception)


def first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).split("\n")[0]


def wall_seconds(call: Call, seconds: float) -> list[float]:
    """Of each call on an idle GPU, from its begin until its result is there."""
    flush = torch.empty(FLUSH_BYTES, dtype=torch.uint8, device="cuda")
    taken: list[float] = []
    start = time.perf_counter()
    while len(taken) < CALLS_LEAST or time.perf_counter() - start < seconds:
        flush.zero_()
        torch.cuda.synchronize()
        begin = time.perf_counter()
        call()
        torch.cuda.synchronize()
        taken.append(time.perf_counter() - begin)
    return taken


def device_seconds(call: Call, seconds: float) -> list[float]:
    """Of each call, between events on the stream before and behind it."""
    flush = torch.empty(FLUSH_BYTES, dtype=torch.uint8, device="cuda")
    taken: list[float] = []
    start = time.perf_counter()
    while len(taken) < CALLS_LEAST or time.perf_counter() - start < seconds:
        before, behind = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        flush.zero_()  # the GPU is busy with it until the host has queued the call
        before.record()
        call()
        behind.record()
        torch.cuda.synchronize()
        taken.append(before.elapsed_time(behind) / 1000)
    return taken


def capture(call: Call) -> Call:
    """The call as a CUDA graph; returns its replay."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(CALLS_LEAST):
            call()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        kept = call()

    def replay() -> object:
        graph.replay()
        return kept

    return replay


def peak_extra_bytes(call: Call, device: str) -> int:
    """Memory that a call takes beyond what there was before, at its highest, results included.

    Counted in torch's allocator: on a GPU by its own statistics, on the CPU from every allocation and release that
    torch's profiler records. What a library allocates by itself (MKL's work space, say) is not seen.
    """
    call()  # caches of plans and handles belong to nobody
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        kept = call()
        torch.cuda.synchronize()
        del kept
        return torch.cuda.max_memory_allocated() - before
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profiler:
        kept = call()
    del kept
    with tempfile.NamedTemporaryFile(suffix=".json") as trace:
        profiler.export_chrome_trace(trace.name)
        with open(trace.name, encoding="utf-8") as file:
            events = [event for event in json.load(file)["traceEvents"] if event.get("name") == "[memory]"]
    held = highest = 0
    for event in sorted(events, key=lambda event: event["ts"]):
        held += event["args"]["Bytes"]
        highest = max(highest, held)
    return highest
