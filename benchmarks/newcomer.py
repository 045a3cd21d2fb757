"""How long a newcomer takes from a clone to a trained, scored encoder of own images; rows go to results/newcomer.csv.

    python benchmarks/newcomer.py IMAGES [--out newcomer.csv]

IMAGES holds train/CLASS/* and val/CLASS/*. The commands are those of docs/quick-start.md, with its settings for a
laptop, in turn in a new clone of this checkout: so the view kernel is compiled, and no feature is there already.
Installing the packages is not among them. `load` is that of the machine before: the times want an idle one.
CPU-seconds are those of a command without its worker processes.
"""

from __future__ import annotations

import argparse
import os
import resource
import shlex
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path

from fastvarcon.bench.rows import append_rows, machine, versions

ROOT = Path(__file__).parents[1]
DEFAULT_OUT = ROOT / "benchmarks" / "results" / "newcomer.csv"
LAPTOP = "--data.size 64 --data.eval-resize 72 --model.width 0.25"
TRAIN = "python recipes/own_dataset.py --data.train train.beton --data.val val.beton --out runs/mine"
COLUMNS = ("date", "step", "seconds", "cpu_seconds", "load", "machine", "versions", "command")
STEPS = (
    ("convert", "fastvarcon convert images/train train.beton --max-resolution 256"),
    ("convert", "fastvarcon convert images/val val.beton --max-resolution 256"),
    ("look at the views; compiles their kernel, once", "fastvarcon inspect train.beton --views 8"),
    ("train", f"{TRAIN} {LAPTOP} --train.epochs 20"),
    ("score", "fastvarcon eval linear runs/mine"),
    ("score", "fastvarcon eval knn runs/mine"),
    ("score", "fastvarcon eval knn runs/mine --features pixels"),
    ("report", "fastvarcon report runs/mine"),
)


def timed(command: str, folder: Path) -> dict[str, float]:
    """Seconds and CPU-seconds of a command, whose output goes where ours does. Exits where it fails."""
    began, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    words = shlex.split(command)
    words = [sys.executable, "-m", "fastvarcon.cli", *words[1:]] if words[0] == "fastvarcon" else words
    words = [sys.executable, *words[1:]] if words[0] == "python" else words
    if subprocess.run(words, cwd=folder, env={**os.environ, "PYTHONPATH": str(folder)}, check=False).returncode:
        sys.exit(f"error: {command} failed: see above")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"seconds": round(time.perf_counter() - began, 1), "cpu_seconds": round(cpu, 1)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path, help="folder with train/CLASS/* and val/CLASS/*")
    parser.add_argument("--out", type=Path, default=DEFAULT_OUT, help="table to which the rows are added")
    args = parser.parse_args()
    same = {"date": date.today().isoformat(), "load": f"{os.getloadavg()[0]:.1f}", "machine": machine()}
    with tempfile.TemporaryDirectory() as home:
        clone = Path(home) / "fastvarcon"
        subprocess.run(["git", "clone", "--quiet", ROOT, clone], check=True)
        (clone / "images").symlink_to(args.images.resolve())
        rows = [{"step": step, **timed(command, clone), "command": command} for step, command in STEPS]
    append_rows([{**same, "versions": versions(), **row} for row in rows], args.out, COLUMNS)
    print(f"{sum(row['seconds'] for row in rows):.0f} seconds together: {args.out}")


if __name__ == "__main__":
    main()
