"""What every row of a benchmark's CSV says besides its figures: the machine, the versions."""

from __future__ import annotations

import csv
import importlib.metadata
import subprocess
from pathlib import Path

import torch

from fastvarcon.errors import UserError
from fastvarcon.machine import available_cores, cpu_name
from fastvarcon.whole_file import may_write

CHARTS = (".png", ".svg", ".pdf")

PACKAGES = (
    "fastvarcon", "torch", "triton", "torchvision", "numba", "simplejpeg", "pillow", "ffcv", "nvidia-dali-cuda120",
    "kornia",
)  # fmt: skip


def machine() -> str:
    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    return f"{available_cores()} x {cpu_name()}{gpu}"


def driver() -> str:
    """Version of the GPU's driver; empty where there is none."""
    if not torch.cuda.is_available():
        return ""
    command = ("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader", "--id=0")
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def versions() -> str:
    """Installed versions of what takes part."""
    found = []
    for name in PACKAGES:
        try:
            found.append(f"{name}={importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    return " ".join(found)


def append_rows(rows: list[dict], path: Path, columns: tuple[str, ...]) -> None:
    """Add the rows of competitors that ran to a table."""
    with may_write(path, "give another table with --csv"):
        new = not path.exists()
        with open(path, "a", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, columns, extrasaction="ignore")
            if new:
                writer.writeheader()
            writer.writerows(row for row in rows if "failure" not in row)


def check_outputs(table: Path, chart: Path) -> None:
    """Raise UserError for places that nothing could be written to, before anything is measured."""
    for path in (table, chart):
        if not path.parent.is_dir():
            raise UserError(f"the folder {path.parent} does not exist: make it first")
        if path.is_dir():
            raise UserError(f"{path} is a folder: give the name of a file")
    if chart.suffix.lower() not in CHARTS:
        raise UserError(f"--plot {chart}: the chart's name must end in {' or '.join(CHARTS)}")
