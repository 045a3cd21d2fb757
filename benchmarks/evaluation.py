"""Time of the linear probe and of kNN at the size of ImageNet-100 features; rows go to results/evaluation.csv.

    python benchmarks/evaluation.py [linear] [knn] [--rows 50000] [--out evaluation.csv]

linear: 50,000 x 2,048 features, 100 classes, the whole fast protocol: 12 points of the grid for 100 epochs, then three
seeds for 100 epochs on all rows, 10,000 held-out rows. knn: 10,000 queries against 50,000 rows, k = 1, 5, 20, 200, both
ways of voting and the nearest class mean. Features are class means plus noise whose variance falls like 1/dimension.
CPU-seconds stand beside the wall time: on a machine that others use, they are the steadier figure.
"""

from __future__ import annotations

import argparse
import csv
import datetime
import os
import shlex
import sys
import time
from pathlib import Path

import torch

from fastvarcon.evaluation.knn import nearest_mean, vote
from fastvarcon.evaluation.linear import linear_probe, summary
from fastvarcon.evaluation.scores import accuracy
from fastvarcon.machine import available_cores, cpu_name

DEFAULT_OUT = Path(__file__).parent / "results" / "evaluation.csv"
DIM, CLASSES, QUERIES = 2048, 100, 10_000
COLUMNS = (
    "date", "task", "rows", "queries", "dim", "classes", "seconds", "cpu_seconds", "top1", "detail", "machine", "load",
    "torch", "command",
)  # fmt: skip


def features(rows: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """x [rows, DIM] float32, y [rows]."""
    spectrum = torch.arange(1, DIM + 1).rsqrt()
    means = 0.3 * torch.randn(CLASSES, DIM, generator=torch.Generator().manual_seed(1)) * spectrum
    y = torch.randint(CLASSES, (rows,), generator=generator)
    return means[y] + torch.randn(rows, DIM, generator=generator) * spectrum, y


def linear(train, test) -> tuple[float, str]:
    choice, curves, _ = linear_probe(*train, *test, CLASSES)
    figures = summary(curves)
    return figures["top1"], f"std {figures['top1_std']:.5f}, lr {choice.lr:g}, decay {choice.decay:g}"


def knn(train, test) -> tuple[float, str]:
    plain, weighted = vote(*train, test[0], CLASSES, (1, 5, 20, 200), 0.07)
    mean = accuracy(nearest_mean(*train, test[0], CLASSES), test[1])
    return accuracy(plain[20], test[1]), f"weighted {accuracy(weighted[20], test[1]):.4f}, class mean {mean:.4f}"


TASKS = {"linear": linear, "knn": knn}


def machine_name() -> str:
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"{available_cores()} cores of {cpu_name()}"


def record(out: Path, row: dict[str, str | int]) -> None:
    """Appends what was measured, with the day, the machine and the command."""
    about = {
        "date": datetime.date.today().isoformat(),
        "machine": machine_name(),
        "torch": torch.__version__,
        "command": shlex.join(["python", *sys.argv]),
    }
    new = not out.exists()
    with open(out, "a", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        if new:
            writer.writeheader()
        writer.writerow(about | row)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tasks", nargs="*", default=list(TASKS))
    parser.add_argument("--rows", type=int, default=50_000)
    parser.add_argument("--out", type=Path, default=DEFAULT_OUT)
    args = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    generator = torch.Generator().manual_seed(0)
    made = [features(count, generator) for count in (args.rows, QUERIES)]
    train, test = ([t.to(device) for t in pair] for pair in made)
    for task in args.tasks:
        load = os.getloadavg()[0]
        start, cpu = time.perf_counter(), time.process_time()
        top1, detail = TASKS[task](train, test)
        seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
        sizes = {"rows": args.rows, "queries": QUERIES, "dim": DIM, "classes": CLASSES}
        times = {"seconds": f"{seconds:.1f}", "cpu_seconds": f"{cpu:.1f}", "load": f"{load:.1f}"}
        record(args.out, {"task": task, **sizes, **times, "top1": f"{top1:.4f}", "detail": detail})
        print(
            f"{task}: {seconds:.1f} s ({cpu:.1f} CPU-s, load before {load:.1f}), top-1 {top1:.2%}, {detail}", flush=True
        )


if __name__ == "__main__":
    main()
