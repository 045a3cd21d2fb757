"""`fastvarcon bench step`: complete training steps, compared with those of the reference recipe."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

from tyro.conf import arg

from fastvarcon.config import Config
from fastvarcon.errors import UserError
from fastvarcon.terminal import add_row, say


def step(
    config: Annotated[Config, arg(name="")],
    recipe: Annotated[Path | None, arg(help="Recipe whose settings are the defaults of the flags below.")] = None,
    images: Annotated[
        Path | None,
        arg(help="The training images as a folder, for the reference; default: written out from --data.train."),
    ] = None,
    rounds: Annotated[int, arg(help="Number of measurements per loop; the loops take turns.")] = 5,
    seconds: Annotated[float, arg(help="Length of a measurement, in seconds.")] = 5.0,
    csv: Annotated[Path, arg(help="CSV table to which the rows are appended.")] = Path("step.csv"),
    plot: Annotated[Path, arg(help="File for the bar chart.")] = Path("step.png"),
) -> None:
    """Trained views per second: our loop on real and on synthetic data, and the loop of the reference recipe.

    Measures one process on one device. --train.global-batch is the batch of that process; --out is not used.
    """
    if rounds < 1:
        raise UserError(f"--rounds must be at least 1, got {rounds}")
    if not 0 < seconds <= 3600:
        raise UserError(f"--seconds must lie between 0 and 3600, got {seconds}")
    from rich.console import Console
    from rich.table import Table

    from fastvarcon.bench.rows import append_rows, check_outputs
    from fastvarcon.bench.step import COLUMNS, bench_step, draw

    check_outputs(csv, plot)
    rows = bench_step(
        config,
        images,
        rounds=rounds,
        seconds=seconds,
        command=shlex.join(["fastvarcon", *sys.argv[1:]]),
        on_step=lambda text: print(text, file=sys.stderr, flush=True),
    )
    table = Table("loop", "views/s", "x ref.", "of synth.", "data wait", "peak MB", "overhead")
    for row in rows:
        if "failure" in row:
            add_row(table, row["competitor"], "-", row["failure"])
            continue
        cells = [
            "" if value is None else format(value, form)
            for value, form in (
                (row["views_per_second"], ",.0f"),
                (row.get("ratio_to_reference"), ".2f"),
                (row.get("ratio_to_synthetic"), ".1%"),
                (row.get("data_wait_fraction"), ".1%"),
                (row.get("peak_gpu_mb") or row.get("peak_host_mb"), ",d"),
                (row.get("framework_overhead"), ".1%"),
            )
        ]
        table.add_row(row["competitor"], *cells)
    Console().print(table)
    print("peak MB: of the GPU; without one, of the process and its workers")
    print("overhead: share of a step that is not the forward and backward of the encoder alone")
    append_rows(rows, csv, COLUMNS)
    draw(rows, plot)
    say(str(csv), str(plot))
