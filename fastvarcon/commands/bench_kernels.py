"""`fastvarcon bench kernels`: the numerical kernels, compared with what people use instead."""

from __future__ import annotations

import os
import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import arg

from fastvarcon.errors import UserError
from fastvarcon.machine import available_cores
from fastvarcon.terminal import add_row, say

FILE_WIDTH = 140  # of a table that goes to a file or a pipe
HEADLINES = ("8192x128x1000", "65536x512x22000")
SHAPES = {
    "cpu": ("1024x128x1000", HEADLINES[0]),
    "cuda": ("1024x128x1000", HEADLINES[0], "65536x128x1000", "8192x512x22000", HEADLINES[1]),
}

PAIR_SHAPES = {"cpu": ("2048x128x100", "8192x128x100"), "cuda": ("4096x128x100", "16384x128x100", "16384x512x1000")}


def kernels(
    views: Annotated[bool, arg(help="Measure augmentation: SimAugment views per second.")] = False,
    varcon: Annotated[bool, arg(help="Measure the VarCon loss: time, memory and error, forward and backward.")] = False,
    contrastive: Annotated[
        bool, arg(help="Measure SupCon in the same way, as an example of the contrastive family.")
    ] = False,
    device: Annotated[Literal["auto", "cpu", "cuda"], arg(help="auto uses CUDA if it is available.")] = "auto",
    rounds: Annotated[int, arg(help="Number of measurements per competitor; the competitors take turns.")] = 5,
    seconds: Annotated[
        float | None,
        arg(help="Length of a measurement, in seconds, at least three calls; default 2 on the CPU, 0.2 on a GPU."),
    ] = None,
    workers: Annotated[int, arg(help="Threads or processes on the CPU; 0 = one per core.")] = 0,
    only: Annotated[
        tuple[str, ...],
        arg(help="Measure only competitors whose name contains one of these, and the baseline; default: all."),
    ] = (),
    batch: Annotated[
        tuple[int, ...],
        arg(help="--views: images per batch at 224 px and at 32 px; default 64 1024 on the CPU, 512 8192 on a GPU."),
    ] = (),
    shapes: Annotated[
        tuple[str, ...],
        arg(
            metavar="NxDxC",
            help="--varcon, --contrastive: rows, width, classes. For a grid, in bash: "
            "{1024,8192,65536}x{128,512}x{10,1000,22000}. Default: a few, up to 65536x512x22000 for --varcon on a GPU.",
        ),
    ] = (),
    dtype: Annotated[
        Literal["auto", "float32", "bfloat16", "float16"],
        arg(help="--varcon, --contrastive: dtype of the rows. auto: float32 on the CPU, bfloat16 on a GPU."),
    ] = "auto",
    csv: Annotated[Path | None, arg(help="CSV table to which the rows are appended; default kernels_NAME.csv.")] = None,
    plot: Annotated[Path | None, arg(help="File for the chart; default kernels_NAME.png.")] = None,
) -> None:
    """Compare our views (--views) with torchvision, kornia and DALI, or our losses with what torch offers."""
    if views + varcon + contrastive != 1:
        raise UserError("say what to measure: --views or --varcon or --contrastive")
    for flag, value, least in (("rounds", rounds, 1), ("workers", workers, 0), *(("batch", n, 1) for n in batch)):
        if value < least:
            raise UserError(f"--{flag} must be at least {least}, got {value}")
    if seconds is not None and not 0 < seconds <= 3600:
        raise UserError(f"--seconds must lie between 0 and 3600, got {seconds}")
    if dtype != "auto" and views:
        raise UserError("--dtype is for --varcon and --contrastive: leave it out")
    if shapes and views:
        raise UserError("--shapes is for --varcon and --contrastive: leave it out")
    if batch and (not views or len(batch) != 2):
        raise UserError("--batch wants two numbers, for 224 px and for 32 px, with --views")
    sizes = [_shape(text) for text in shapes]
    name = "views" if views else "varcon" if varcon else "contrastive"
    csv, plot = csv or Path(f"kernels_{name}.csv"), plot or Path(f"kernels_{name}.png")
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # both are read when torch is imported, here and in the processes
    os.environ.setdefault("TORCH_LOGS", "-all")  # of the competitors: what torch.compile has to say about them

    import torch

    from fastvarcon.bench.rows import check_outputs

    check_outputs(csv, plot)
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("no CUDA device here: leave --device out")
    device = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    common = {
        "rounds": rounds,
        "seconds": seconds or (0.2 if device == "cuda" else 2.0),
        "only": only,
        "command": shlex.join(["fastvarcon", *sys.argv[1:]]),
        "on_step": _print,
    }
    workers = workers or available_cores()
    if views:
        _views(device, batch, workers, common, csv, plot)
    else:
        shown = sizes or [_shape(text) for text in (SHAPES if varcon else PAIR_SHAPES)[device]]
        dtype = ("bfloat16" if device == "cuda" else "float32") if dtype == "auto" else dtype
        _loss(name, shown, dtype, device, workers, common, csv, plot)
    say(str(csv), str(plot))


def _shape(text: str) -> tuple[int, int, int]:
    found = re.fullmatch(r"([1-9]\d{0,7})x([1-9]\d{0,4})x([1-9]\d{0,6})", text)
    if not found:
        raise UserError(f"--shapes wants ROWSxWIDTHxCLASSES, as in {HEADLINES[0]}, got {text}")
    rows, width, classes = map(int, found.groups())
    return rows, width, classes


def _views(device: str, batch: tuple[int, ...], workers: int, common: dict, csv: Path, plot: Path) -> None:
    from fastvarcon.bench.rows import append_rows
    from fastvarcon.bench.views import COLUMNS, bench_views, draw, verdict
    from fastvarcon.bench.views_competitors import Job

    photos, small = batch or {"cpu": (64, 1024), "cuda": (512, 8192)}[device]
    jobs = [Job(224, 400, photos, workers, device), Job(32, 32, small, workers, device)]
    rows = []
    for job in jobs:
        rows += (measured := bench_views(job, **common))
        lines: list[tuple[str, ...]] = []
        for row in measured:
            if "failure" in row:
                lines.append((row["competitor"], row["failure"]))
                continue
            ratio = "-", "-"
            if "ratio_to_torchvision" in row:
                ratio = f"{row['ratio_to_torchvision']:.2f}", f"{row['ratio_min']:.2f}-{row['ratio_max']:.2f}"
            spread = f"{row['views_per_second_min']:,.0f}-{row['views_per_second_max']:,.0f}"
            on_device = f"{row['device_ms']:.3f} ({row['device_method']})" if "device_ms" in row else "-"
            lines.append((row["competitor"], f"{row['views_per_second']:,.0f}", spread, *ratio, on_device))
        title = f"{job.task}, {job.batch:,} images a batch"
        print_table(title, ("", "views/s", "range", "x torchvision", "range", "device ms a batch"), lines)
        append_rows(measured, csv, COLUMNS)
    print("\n".join(verdict(rows)))
    draw(rows, plot)


def _loss(
    name: str,
    sizes: list[tuple[int, int, int]],
    dtype: str,
    device: str,
    workers: int,
    common: dict,
    csv: Path,
    plot: Path,
) -> None:
    from fastvarcon.bench.contrastive import CONTRASTIVE
    from fastvarcon.bench.rows import append_rows
    from fastvarcon.bench.varcon import COLUMNS, REGIMES, VARCON, Job, bench_loss, check_memory, verdict
    from fastvarcon.bench.varcon_chart import draw

    jobs = [Job(*size, dtype, device, workers) for size in sizes]
    subject = VARCON if name == "varcon" else CONTRASTIVE
    check_memory(subject, jobs)
    columns = ["", "wall\nms", "device\nms", "x refer-\nence", "peak\nMB", "of refer-\nence"]
    columns += [f"{what} err.\n{regime}" for regime in REGIMES for what in ("loss", "grad.")]
    rows = []
    for job in jobs:
        rows += (measured := bench_loss(subject, job, **common))
        lines: list[tuple[str, ...]] = []
        for row in measured:
            if "failure" in row:
                lines.append((row["competitor"], row["failure"]))
                continue
            on_device = f"{row['device_ms']:g}\n({row['device_method']})" if "device_ms" in row else "-"
            speedup, memory = (f"{row[name]:.2f}" if name in row else "-" for name in ("speedup", "memory_ratio"))
            figures = f"{row['wall_ms']:g}", on_device, speedup, f"{row['peak_extra_mb']:.1f}", memory
            wrong = [row[f"{what}_error_{regime}"] for regime in REGIMES for what in ("loss", "gradient")]
            lines.append((row["competitor"], *figures, *wrong))
        bound = f", bound of an H200 {subject.bound_ms(job):.3g} ms" if device == "cuda" else ""
        print_table(f"{job.name}, {dtype}{bound}", columns, lines)
        append_rows(measured, csv, COLUMNS)
    print("\n".join(verdict(rows)))
    draw(rows, plot, subject)


def print_table(title: str, columns: Sequence[str], lines: list[tuple[str, ...]]) -> None:
    """Print a table. A line of two cells is a competitor that could not run, and the reason: it is listed below."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title)
    for column in columns:
        table.add_column(column, justify="right" if column else "left", no_wrap=True)
    for line in lines:
        if len(line) > 2:
            add_row(table, *line)
    console = Console(width=None if sys.stdout.isatty() else FILE_WIDTH)
    console.print(table)
    for line in lines:
        if len(line) == 2:
            console.print(f"could not run: {line[0]}: {line[1]}", highlight=False, markup=False, soft_wrap=True)


def _print(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
