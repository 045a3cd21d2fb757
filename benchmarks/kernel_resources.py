"""What every kernel takes of GPUs that are not there, as each release of Triton compiles it: needs no GPU.

    python benchmarks/kernel_resources.py                                # the installed Triton: about two minutes
    python benchmarks/kernel_resources.py --triton 3.6 3.7 3.8 3.9       # these, from the index, in a temporary folder

Registers and stack bytes of a thread and shared memory of a program, for every launch of tests/kernels/launches.py. The
rows take the place of those of the same minor release in benchmarks/results/kernel_resources.csv, which the tests
compare theirs with; `make tables` shows them in docs/kernels.md.
"""

from __future__ import annotations

import argparse
import csv
import datetime
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
OUT = ROOT / "benchmarks" / "results" / "kernel_resources.csv"
CAPABILITIES = (80, 90, 100, 120)  # 89 has the tiles and the shared memory of 120
COLUMNS = ("date", "triton", "capability", "kernel", "launch", "registers", "stack", "shared", "command")
VIEWS_ALIKE = ("views any size", "views any batch")  # the machine code of another launch


def compiled(folder: str | None) -> tuple[str, list[dict]]:
    """(version of Triton, kernels) by the Triton in `folder`, or by the installed one."""
    environ = {**os.environ, "TRITON_INTERPRET": "0"}
    if folder:
        environ["PYTHONPATH"] = os.pathsep.join(filter(None, (folder, os.environ.get("PYTHONPATH"))))
    wanted = json.dumps({capability: {"": None} for capability in CAPABILITIES})
    command = [sys.executable, str(ROOT / "tests" / "kernels" / "aot.py"), wanted]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"error: the kernels do not compile: see above\n{done.stderr}")
    made = json.loads(done.stdout)
    return made["triton"], made["kernels"]


def compiled_by(release: str) -> tuple[str, list[dict]]:
    """The same by the newest Triton of a minor release, such as 3.8."""
    with tempfile.TemporaryDirectory() as folder:
        install = ["-m", "pip", "install", "--quiet", "--no-deps", "--target", folder, f"triton=={release}.*"]
        subprocess.run([sys.executable, *install], check=True)
        return compiled(folder)


def rows_of(triton: str, kernels: list[dict], command: str) -> list[dict]:
    """Every machine code of a launch once."""
    same = {"date": datetime.date.today().isoformat(), "triton": triton, "command": command}
    rows = {(k["capability"], k["launch"], k["hash"]): {**same, **k} for k in kernels if k["launch"] not in VIEWS_ALIKE}
    return list(rows.values())


def minor(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")[:2]))


def write(rows: list[dict]) -> None:
    """Into the table, in the place of the rows of the same releases."""
    kept = []
    if OUT.exists():
        with open(OUT, newline="", encoding="utf-8") as file:
            kept = list(csv.DictReader(file))
    again = {minor(row["triton"]) for row in rows}
    rows = sorted(
        [row for row in kept if minor(row["triton"]) not in again] + rows, key=lambda row: minor(row["triton"])
    )
    with open(OUT, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--triton", nargs="+", default=[], metavar="X.Y", help="releases (default: the installed one)")
    args = parser.parse_args()
    for release in args.triton or [None]:
        command = "python benchmarks/kernel_resources.py" + (f" --triton {release}" if release else "")
        triton, kernels = compiled_by(release) if release else compiled(None)
        rows = rows_of(triton, kernels, command)
        write(rows)
        spilling = [row for row in rows if row["stack"]]
        print(f"triton {triton}: {len(rows)} kernels, {len(spilling)} spill, at most {max(r['stack'] for r in rows)} B")


if __name__ == "__main__":
    main()
