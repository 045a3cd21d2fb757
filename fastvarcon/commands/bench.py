"""`fastvarcon bench`: speed on this machine, compared with what people use instead."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from fastvarcon.commands.bench_kernels import kernels
from fastvarcon.commands.bench_step import step
from fastvarcon.errors import UserError
from fastvarcon.terminal import add_row, say


def loader(
    file: Annotated[
        Positional[Path], arg(metavar="FILE", help="A .beton file or its shards, written by `fastvarcon convert`.")
    ],
    images: Annotated[
        Path | None,
        arg(help="The same images as a folder, for the loaders that read folders; default: written out from FILE."),
    ] = None,
    size: Annotated[int, arg(help="Side of a view in pixels.")] = 224,
    batch: Annotated[int, arg(help="Images per batch.")] = 64,
    workers: Annotated[int, arg(help="Threads or processes of every loader; 0 = one per core.")] = 0,
    rounds: Annotated[int, arg(help="Number of measurements per loader; the loaders take turns.")] = 5,
    seconds: Annotated[float, arg(help="Length of a measurement, in seconds.")] = 3.0,
    only: Annotated[
        tuple[str, ...],
        arg(help="Measure only loaders whose name contains one of these, and the baseline; default: all."),
    ] = (),
    csv: Annotated[Path, arg(help="CSV table to which the rows are appended.")] = Path("loader.csv"),
    plot: Annotated[Path, arg(help="File for the bar chart.")] = Path("loader.png"),
) -> None:
    """Pairs of views per second and CPU-seconds per 1,000 pairs, for our loader, torchvision, ffcv and DALI on the same
    cores."""
    from rich.console import Console
    from rich.table import Table

    from fastvarcon.bench.loader import COLUMNS, bench_loader, draw
    from fastvarcon.bench.rows import append_rows, check_outputs

    for flag, value, least in (("size", size, 1), ("batch", batch, 1), ("workers", workers, 0), ("rounds", rounds, 1)):
        if value < least:
            raise UserError(f"--{flag} must be at least {least}, got {value}")
    if not 0 < seconds <= 3600:
        raise UserError(f"--seconds must lie between 0 and 3600, got {seconds}")
    check_outputs(csv, plot)
    rows = bench_loader(
        file,
        images,
        size=size,
        batch=batch,
        workers=workers,
        rounds=rounds,
        seconds=seconds,
        only=only,
        command=shlex.join(["fastvarcon", *sys.argv[1:]]),
        on_step=lambda step: print(step, file=sys.stderr, flush=True),
    )
    table = Table("task", "loader", "pairs/s", "range", "CPU-s per 1,000", "x torchvision")
    for row in rows:
        if "failure" in row:
            add_row(table, row["task"], row["competitor"], "-", row["failure"], "-", "-")
            continue
        spread = f"{row['pairs_per_second_min']:,.0f}-{row['pairs_per_second_max']:,.0f}"
        figures = f"{row['pairs_per_second']:,.0f}", spread, f"{row['cpu_seconds_per_1000_pairs']:.3f}"
        table.add_row(row["task"], row["competitor"], *figures, f"{row['ratio_to_torchvision']:.1f}")
    Console().print(table)
    append_rows(rows, csv, COLUMNS)
    draw(rows, plot)
    say(str(csv), str(plot))


BENCHMARKS: dict[str, Callable[..., None]] = {"loader": loader, "kernels": kernels, "step": step}
