"""Feeds damaged files to the reader: whatever the bytes, it refuses with a UserError or hands out whole records.

    python benchmarks/fuzz_reader.py --n 200000 --seed 0

Every mutant is opened as a user's file is, and each record that the reader admits is decoded the way backend `cpu`
does it. That happens in a process of its own whose memory is limited: a crash, a hang, an allocation far beyond what
the file can hold, or any other exception is counted, and the mutant is kept below --keep. A row goes to --out.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import datetime
import multiprocessing
import os
import platform
import resource
import shlex
import shutil
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path

import numpy as np
from fuzz_mutants import Dataset, Mutants, ffcv_installed, make_seeds

from fastvarcon.data.backends import BackendOptions
from fastvarcon.data.backends.cpu import CpuBackend
from fastvarcon.data.decode import ImageError
from fastvarcon.errors import UserError

RESULTS = Path(__file__).parent / "results" / "fuzz.csv"
PACKAGES = ("fastvarcon", "numpy", "pillow", "simplejpeg", "torch")
CHUNK = 20_000  # mutants per process
MEMORY = 128 << 20  # bytes beyond those of an idle process; a million unnamed classes take half of it
HANG_SECONDS = 20.0
WARM_UP = 1  # mutants that are read before memory is limited
OUTCOMES = ("opened", "refused", "unexpected")
Read = Callable[[Dataset, Path], str]


def store(dataset: Dataset, folder: Path) -> Path:
    """Write a dataset; returns what a user would name."""
    for name, content in dataset.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder / "a.beton" if "a.beton" in dataset else folder


def read_all(path: Path) -> str:
    """Open and decode everything: "opened", or "refused" with a UserError. Anything else that is raised is a bug."""
    try:
        backend = CpuBackend(path, BackendOptions())
    except UserError:
        return "refused"
    try:
        records = backend.records
        records.will_need(0, len(records))
        for index in range(len(records)):
            record = records.record(index)
            assert len(record) == records.sizes[index] > 0, records.name(index)
            bytes(record)
            assert -1 <= records.labels[index] < len(records.classes), records.name(index)
            try:
                backend.fetch(np.array([index]))
            except ImageError as error:
                assert error.sample == index
    finally:
        backend.close()
    return "opened"


def read_stored(dataset: Dataset, folder: Path) -> str:
    return read_all(store(dataset, folder))


def _read_mutants(
    mutants: Mutants, numbers: range, folder: Path, progress, counts, keep: Path, read: Read, memory: int
) -> None:
    """The process that may die: reads the mutants `numbers`, and says before each one that it is next."""
    for number in range(WARM_UP):  # everything is imported behind this
        with contextlib.suppress(Exception):
            read(mutants[number], _emptied(folder))
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + memory, resource.RLIM_INFINITY))
    for number in numbers:
        progress.value = number
        dataset = mutants[number]
        try:
            outcome = read(dataset, _emptied(folder))
        except Exception:
            outcome = "unexpected"
            _keep(folder, keep / f"unexpected-{number}", traceback.format_exc())
        counts[OUTCOMES.index(outcome)] += 1


def _emptied(folder: Path) -> Path:
    for path in folder.iterdir():
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    return folder


def _keep(folder: Path, to: Path, why: str) -> None:
    shutil.copytree(folder, to, symlinks=True, dirs_exist_ok=True)
    (to / "why.txt").write_text(why)
    print(f"{to}: {why.strip().splitlines()[-1]}", flush=True)


def fuzz(mutants: Mutants, n: int, keep: Path, read: Read = read_stored, memory: int = MEMORY) -> dict[str, int]:
    """Read mutants 0 to n - 1. Returns how many there were of each outcome, "crashes" and "hangs" included.

    Args:
        read: stores one in an empty folder and reads it: "opened" or "refused".
        memory: bytes that this may take beyond those of an idle process.
    """
    context = multiprocessing.get_context("spawn")
    progress, counts = context.Value("q", 0, lock=False), context.Array("q", len(OUTCOMES), lock=False)
    crashes = hangs = first = 0
    folder = Path("/dev/shm" if os.path.isdir("/dev/shm") else keep) / f"fastvarcon-fuzz-{os.getpid()}"
    folder.mkdir(parents=True)
    try:
        while first < n:
            last = min(first + CHUNK, n)
            progress.value = first
            arguments = mutants, range(first, last), folder, progress, counts, keep, read, memory
            process = context.Process(target=_read_mutants, args=arguments)
            process.start()
            hung = _wait(process, progress)
            if process.exitcode == 0:
                first = last
                print(f"{first:,} of {n:,}  {dict(zip(OUTCOMES, counts, strict=True))}", flush=True)
                continue
            crashes, hangs = crashes + (not hung), hangs + hung
            why = "hung" if hung else f"the process ended with {process.exitcode}"
            _keep(folder, keep / f"crash-{progress.value}", why)
            first = progress.value + 1
    finally:
        shutil.rmtree(folder)
    return {**dict(zip(OUTCOMES, counts, strict=True)), "crashes": crashes, "hangs": hangs}


def _wait(process, progress) -> bool:
    """Until the process ends. True if it had to be killed because it stayed with one mutant."""
    at, since = progress.value, time.monotonic()
    while process.is_alive():
        process.join(0.5)
        if progress.value != at:
            at, since = progress.value, time.monotonic()
        elif time.monotonic() - since > HANG_SECONDS:
            process.kill()
            process.join()
            return True
    return False


def main(
    read: Read = read_stored,
    make: Callable[[int], Mutants] | None = None,
    memory: int = MEMORY,
    packages: Sequence[str] = PACKAGES,
    doc: str | None = __doc__,
) -> None:
    """The command line: `make(seed)` gives the mutants."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=200_000, help="number of mutants")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, default=Path("runs/fuzz"), help="folder for what went wrong")
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    start = time.perf_counter()
    outcomes = fuzz((make or our_mutants)(args.seed), args.n, args.keep, read, memory)
    row = {
        "date": datetime.date.today().isoformat(),
        "n": args.n,
        **{name: outcomes[name] for name in ("crashes", "hangs", "unexpected", "opened", "refused")},
        "seconds": round(time.perf_counter() - start, 1),
        "seed": args.seed,
        "versions": f"{' '.join(f'{name}={version(name)}' for name in packages)} python={platform.python_version()}",
        "command": shlex.join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]]),
    }
    print("  ".join(f"{name} {value}" for name, value in row.items()))
    new = not args.out.exists()
    with open(args.out, "a", newline="") as file:
        writer = csv.DictWriter(file, row)
        if new:
            writer.writeheader()
        writer.writerow(row)
    sys.exit(1 if outcomes["crashes"] + outcomes["hangs"] + outcomes["unexpected"] else 0)


def our_mutants(seed: int) -> Mutants:
    return Mutants(make_seeds(with_ffcv=ffcv_installed()), seed)


if __name__ == "__main__":
    main(packages=PACKAGES + ("ffcv",) * ffcv_installed())
