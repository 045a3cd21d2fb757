"""`fastvarcon doctor`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

from tyro.conf import arg

from fastvarcon.config import Config
from fastvarcon.errors import UserError
from fastvarcon.terminal import add_row, say


def duration(hours: float) -> str:
    return f"{hours:,.1f} hours" if hours >= 1 else f"{60 * hours:,.1f} minutes"


def doctor(
    config: Annotated[Config, arg(name="")],
    recipe: Annotated[Path | None, arg(help="Recipe whose settings are the defaults of the flags below.")] = None,
    processes: Annotated[
        int, arg(help="Number of processes that will train on this machine; 0 = one per GPU. One of them is measured.")
    ] = 0,
    seconds: Annotated[float, arg(help="Total length of the measurements, in seconds.")] = 30.0,
) -> None:
    """Show what is installed here; with --data.train also what a training would wait for and how long it would take."""
    from rich.console import Console
    from rich.table import Table

    from fastvarcon.reporting.inventory import gpu_count, inventory

    if processes < 0:
        raise UserError(f"--processes must be 0 (one per GPU) or more, got {processes}")
    if not 0 < seconds <= 3600:
        raise UserError(f"--seconds must lie between 0 and 3600, got {seconds}")
    console, found = Console(), Table("here", "", show_header=False)
    for name, value in inventory():
        add_row(found, name, value)
    console.print(found)
    if config.data.train is None:
        say("to measure a training: fastvarcon doctor --recipe recipes/NAME.py --data.train FILE")
        return
    from fastvarcon.bench.doctor import diagnose

    processes = processes or (1 if config.train.device == "cpu" else max(1, gpu_count()))
    diagnosis = diagnose(config, processes, seconds, lambda what: print(f"measuring {what}", file=sys.stderr))
    rates = diagnosis.rates
    table = Table("one process", "views/s", "x synthetic")
    for what, rate in (
        ("views of decoded images, alone", rates.views),
        ("loader, alone", rates.loader),
        ("steps on synthetic data", rates.synthetic),
        ("steps on real data", rates.real),
    ):
        table.add_row(what, f"{rate:,.0f}", f"{rate / rates.synthetic:,.2f}")
    console.print(table)
    print(f"waiting for data: {rates.waiting:.0%} of the time of real steps")
    say(f"verdict: {diagnosis.verdict}")
    say(
        f"projected: {duration(diagnosis.hours)} for {config.train.epochs} epochs of {config.data.train.name} on "
        f"{processes} process(es), without communication, validation and checkpoints"
    )
