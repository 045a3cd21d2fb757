"""How the runs of a study are executed: as processes of their own, some at a time, or one after another in this one."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import filelock

from fastvarcon import locks
from fastvarcon.errors import UserError
from fastvarcon.machine import available_cores
from fastvarcon.studies.commands import executable

POLL_SECONDS = 0.2
LOCK_SECONDS = 60.0
TAIL_BYTES = 16384
PR_SET_PDEATHSIG = 1
LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None


class Failed(Exception):
    """A run has not come to its end; the text says why."""


@dataclass(frozen=True)
class Slot:
    """What one of several runs at a time may use."""

    gpus: tuple[str, ...] | None
    """Of CUDA_VISIBLE_DEVICES; None: all."""
    cores: tuple[int, ...] | None
    """None: all."""


def slots(jobs: int, processes: int) -> tuple[list[Slot], int]:
    """Share the GPUs and cores of this machine among `jobs` runs; (one slot for each, processes of a run).

    Args:
        processes: of a run; 0 = one for each of its GPUs, else one.
    """
    visible = _visible_gpus() if jobs > 1 or processes == 0 else []
    if jobs == 1:
        return [Slot(None, None)], processes or max(1, len(visible))
    each = processes or max(1, len(visible) // jobs)
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    share = max(1, available_cores() // jobs)
    found = []
    for job in range(jobs):
        gpus = tuple(visible[(job * each + i) % len(visible)] for i in range(each)) if visible else None
        mine = tuple(cores[(job * share + i) % len(cores)] for i in range(share)) if cores else None
        found.append(Slot(gpus, mine))
    return found, each


def _visible_gpus() -> list[str]:
    import torch

    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    count = torch.cuda.device_count()
    return named.split(",")[:count] if named else [str(index) for index in range(count)]


class Child:
    """The commands of one run, one after another, their output in a log. Ends with the process that made it."""

    def __init__(self, commands: Iterator[list[str]], log: Path, slot: Slot):
        self._commands, self._log, self._slot = commands, log, slot
        self._process: subprocess.Popen | None = None

    def _start(self, command: list[str]) -> subprocess.Popen:
        environment = dict(os.environ)
        if self._slot.gpus is not None:
            environment["CUDA_VISIBLE_DEVICES"] = ",".join(self._slot.gpus)
        with open(self._log, "a", encoding="utf-8") as log:
            print("$", *command, file=log, flush=True)
            return subprocess.Popen(
                executable(command),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,  # Ctrl-C is for this process, which then asks its children to save
                preexec_fn=self._in_child if sys.platform == "linux" else None,
            )

    def _in_child(self) -> None:
        assert LIBC is not None
        LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)  # also where this process is killed
        if self._slot.cores is not None:
            os.sched_setaffinity(0, self._slot.cores)

    def poll(self) -> bool:
        """Whether all commands are done; starts the next one. Raises Failed with the last error of the log."""
        if self._process is not None:
            if self._process.poll() is None:
                return False
            if self._process.returncode:
                raise Failed(f"{self._reason()} (see {self._log})")
        command = next(self._commands, None)
        if command is None:
            return True
        self._process = self._start(command)
        return False

    def _reason(self) -> str:
        assert self._process is not None
        said = self._tail().rpartition("\n$ ")[2].splitlines()
        errors = [line for line in said if line.startswith("error")]
        return errors[-1].partition(": ")[2] if errors else f"exit code {self._process.returncode}"

    def last_line(self) -> str:
        return self._tail().rstrip().rpartition("\n")[2]

    def _tail(self) -> str:
        """The last kilobytes of the log."""
        with open(self._log, "rb") as log:
            log.seek(max(0, log.seek(0, os.SEEK_END) - TAIL_BYTES))
            return log.read().decode(errors="replace")

    def stop(self) -> None:
        """Ask it to save and leave, and wait for that."""
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            self._process.wait()


def wait_for_lock(run: Path) -> None:
    """A training that an earlier study has left behind is saving: let it finish. Raises UserError if it goes on."""
    if not run.exists():
        return
    try:
        locks.acquire(run / ".lock", timeout=LOCK_SECONDS).release()
    except filelock.Timeout:
        raise UserError(f"{run} is in use by another run: wait for it or give another --out") from None
