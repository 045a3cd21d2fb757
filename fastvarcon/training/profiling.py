"""A trace of a few steps, for chrome://tracing, Perfetto or TensorBoard (`--train.profile N`)."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile, schedule

SKIPPED = 5  # steps: compilers and caches warm up
TUNED = 2  # steps in which the profiler itself warms up


class StepProfiler:
    """Traces `steps` steps of this process, after the first few; does nothing for 0.

    Args:
        path: the trace to write; it appears when it is whole.
        say: told that it is there.
    """

    def __init__(self, steps: int, path: Path, say: Callable[[str], None]):
        self._path, self._say = path, say
        self._left = SKIPPED + TUNED + steps if steps else 0
        self._profile = None
        if steps:
            cuda = [ProfilerActivity.CUDA] if torch.cuda.is_available() else []
            self._profile = profile(
                activities=[ProfilerActivity.CPU, *cuda],
                schedule=schedule(wait=SKIPPED, warmup=TUNED, active=steps, repeat=1),
                on_trace_ready=self._write,
            )
            self._profile.start()

    def step(self) -> None:
        """A step has been done."""
        if self._profile is not None:
            self._profile.step()
            self._left -= 1
            if not self._left:
                self.close()

    def close(self) -> None:
        """End the trace, also if it has fewer steps than asked for; may be called twice."""
        if self._profile is not None:
            running, self._profile = self._profile, None
            running.stop()

    def _write(self, traced: profile) -> None:
        aside = self._path.with_name(f"{self._path.name}.partial")
        try:
            self._path.parent.mkdir(exist_ok=True)
            traced.export_chrome_trace(str(aside))  # a full disk leaves no file, and raises nothing
            os.replace(aside, self._path)
        except (OSError, RuntimeError) as error:
            for left in self._path.parent.glob(f"{aside.name}*"):
                left.unlink(missing_ok=True)
            reason = "is the disk full?" if isinstance(error, FileNotFoundError) else error
            self._say(f"warning: the trace of the steps was not written ({reason}): training goes on")
        else:
            self._say(f"trace of the steps: {self._path}")
