"""Resident memory of a loading process over many epochs, beyond what the page cache holds.

    python benchmarks/loader_memory.py FILE --epochs 50 --batch 1024 --size 64

Runs the Loader (decode, two views) and prints anonymous memory (RssAnon: heap, buffers, batches; without the mapped
file) after every epoch. A row goes to benchmarks/results/loader_memory.csv: at the first and the last epoch, and the
largest of all. FILE may be a pattern of shards.
"""

from __future__ import annotations

import argparse
import csv
import datetime
import shlex
import sys
from pathlib import Path

from fastvarcon.bench.rows import versions
from fastvarcon.data.backends import open_backend
from fastvarcon.data.loader import Loader, ViewSpec
from fastvarcon.machine import available_cores

RESULTS = Path(__file__).parent / "results" / "loader_memory.csv"


def anonymous_mb() -> float:
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("RssAnon"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("--backend", default="cpu")
    parser.add_argument("--epochs", type=int, default=50)
    parser.add_argument("--batch", type=int, default=1024)
    parser.add_argument("--size", type=int, default=64, help="side of a view in pixels")
    args = parser.parse_args()
    before = anonymous_mb()
    backend = open_backend(args.backend, args.file, available_cores())
    spec = ViewSpec(size=args.size, mean=(0.5,) * 3, std=(0.25,) * 3)
    after = []
    with Loader(backend, spec, global_batch=args.batch, epochs=args.epochs) as loader:
        for epoch in range(args.epochs):
            images = sum(len(labels) for _, labels, _ in loader)
            after.append(anonymous_mb())
            print(f"epoch {epoch + 1:3d}  {images} images  {after[-1]:7.1f} MB", flush=True)
    row = {
        "date": datetime.date.today().isoformat(),
        "backend": backend.name,
        "images": len(backend),
        "batch": args.batch,
        "size": args.size,
        "epochs": args.epochs,
        "imports_mb": round(before),
        "first_epoch_mb": round(after[0]),
        "last_epoch_mb": round(after[-1]),
        "largest_mb": round(max(after)),
        "versions": versions(),
        "command": shlex.join(["python", *sys.argv]),
    }
    new = not RESULTS.exists()
    with open(RESULTS, "a", newline="") as file:
        writer = csv.DictWriter(file, row.keys())
        if new:
            writer.writeheader()
        writer.writerow(row)


if __name__ == "__main__":
    main()
