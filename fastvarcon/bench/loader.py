"""`fastvarcon bench loader`: pairs of views per second and CPU-seconds per 1,000 pairs, ours and theirs in one run."""

from __future__ import annotations

import csv
import datetime
import importlib.metadata
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from fastvarcon.bench.loader_competitors import BASELINE, DECODE, GPU_VIEWS, TWO_VIEWS, Job
from fastvarcon.bench.rounds import Competitor, Measured, measure
from fastvarcon.data.beton import JPG
from fastvarcon.data.records import Records, open_records
from fastvarcon.errors import UserError
from fastvarcon.machine import available_cores, cpu_name

COLUMNS = (
    "date", "dataset", "images", "mean_pixels", "mean_bytes", "task", "competitor", "size", "batch", "workers",
    "rounds", "pairs_per_second", "pairs_per_second_min", "pairs_per_second_max", "cpu_seconds_per_1000_pairs",
    "ratio_to_torchvision", "machine", "versions", "command",
)  # fmt: skip
PACKAGES = ("fastvarcon", "torch", "torchvision", "numba", "simplejpeg", "pillow", "ffcv", "nvidia-dali-cuda120")


def bench_loader(
    file: Path,
    images: Path | None,
    *,
    size: int,
    batch: int,
    workers: int,
    rounds: int,
    seconds: float,
    only: tuple[str, ...],
    command: str,
    on_step: Callable[[str], None],
) -> list[dict]:
    """Rows of COLUMNS, one per competitor; a competitor that cannot run has no figures and says why in `failure`.

    Args:
        images: the same images as a folder; None = the records are written out to a temporary one.
        only: parts of the names of the competitors to run; none = all. The baseline always runs.
    """
    records = open_records(file)
    try:
        if len(records) < batch:
            raise UserError(f"{file} holds {len(records)} images, less than a batch: give a smaller --batch")
        facts = {
            "dataset": file.stem,
            "images": len(records),
            "mean_pixels": round(float(np.mean(records.heights.astype(np.int64) * records.widths))),
            "mean_bytes": round(float(np.mean(records.sizes))),
        }
        with tempfile.TemporaryDirectory(prefix="fastvarcon-bench-") as temporary:
            if images is None:
                on_step("writing the images out for those who read folders")
                images = write_folder(records, file, Path(temporary))
            job = Job(file.resolve(), images.resolve(), size, batch, workers or available_cores())
            entries = {
                (task, name): competitor
                for task, group in tasks().items()
                for name, competitor in group.items()
                if name == BASELINE or not only or any(part in f"{task}: {name}" for part in only)
            }
            named = {f"{task}: {name}": competitor for (task, name), competitor in entries.items()}
            results = measure(named, job, rounds=rounds, seconds=seconds, on_step=on_step)
    finally:
        records.close()
    baseline = results[f"two views: {BASELINE}"]
    if baseline.failure:
        raise UserError(f"the baseline could not run: {baseline.failure}")
    rows = []
    for (task, name), result in zip(entries, results.values(), strict=True):
        rows.append(
            {
                "date": datetime.date.today().isoformat(),
                **facts,
                "task": task,
                "competitor": name,
                "size": size,
                "batch": batch,
                "workers": job.workers,
                "rounds": rounds,
                **_figures(result, baseline),
                "machine": _machine(),
                "versions": versions(),
                "command": command,
            }
        )
    return rows


def tasks() -> dict[str, dict[str, Competitor]]:
    """What is measured here: task -> name -> competitor."""
    gpu = {"two views on the GPU": GPU_VIEWS} if torch.cuda.is_available() else {}
    return {"two views": TWO_VIEWS, "decode": DECODE, **gpu}


def _figures(result: Measured, baseline: Measured) -> dict:
    if result.failure:
        return {"failure": result.failure}
    return {
        "pairs_per_second": round(result.median, 1),
        "pairs_per_second_min": round(min(result.per_second), 1),
        "pairs_per_second_max": round(max(result.per_second), 1),
        "cpu_seconds_per_1000_pairs": round(result.cpu, 4),
        "ratio_to_torchvision": round(result.median / baseline.median, 2),
    }


def _machine() -> str:
    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    return f"{available_cores()} x {cpu_name()}{gpu}"


def versions() -> str:
    """Installed versions of what takes part."""
    found = []
    for name in PACKAGES:
        try:
            found.append(f"{name}={importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    return " ".join(found)


def write_folder(records: Records, file: Path, out: Path) -> Path:
    """The records as OUT/CLASS/ID.jpg, byte for byte; raw records as PNG."""
    for sample in range(len(records)):
        folder = out / f"{records.labels[sample]:05d}"
        folder.mkdir(exist_ok=True)
        if records.modes[sample] == JPG:
            (folder / f"{sample:07d}.jpg").write_bytes(records.record(sample))
        else:
            shape = int(records.heights[sample]), int(records.widths[sample]), 3
            pixels = np.frombuffer(records.record(sample), dtype=np.uint8).reshape(shape)
            Image.fromarray(pixels).save(folder / f"{sample:07d}.png")
    return out


def append_rows(rows: list[dict], path: Path) -> None:
    new = not path.exists()
    with open(path, "a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, extrasaction="ignore")
        if new:
            writer.writeheader()
        writer.writerows(row for row in rows if "failure" not in row)


def draw(rows: list[dict], path: Path) -> None:
    """Bar chart of pairs per second, with the spread over the rounds and the ratio to the torchvision loader."""
    from matplotlib.figure import Figure

    shown = sorted(
        (row for row in rows if "failure" not in row), key=lambda row: (row["task"], row["pairs_per_second"])
    )
    figure = Figure(figsize=(9, 1.2 + 0.42 * len(shown)), layout="constrained")
    axes = figure.add_subplot()
    for place, row in enumerate(shown):
        middle = row["pairs_per_second"]
        spread = [[middle - row["pairs_per_second_min"]], [row["pairs_per_second_max"] - middle]]
        ours = row["competitor"].startswith("fastvarcon")
        axes.barh(place, middle, xerr=spread, color="#2a6fbb" if ours else "#b0b0b0", ecolor="#444444", capsize=2)
        axes.annotate(
            f" {middle:,.0f}  ({row['ratio_to_torchvision']:.1f}x)",
            (row["pairs_per_second_max"], place),
            va="center",
            fontsize=9,
        )
    axes.set_yticks(range(len(shown)), [f"{row['competitor']}\n{row['task']}" for row in shown], fontsize=8)
    first = shown[0]
    axes.set_xlabel(f"images decoded (decode) or pairs of {first['size']} px views made (two views) per second")
    axes.set_title(
        f"{first['dataset']}: {first['images']:,} images of {first['mean_pixels']:,} pixels, "
        f"{first['workers']} workers, median and range of {first['rounds']} rounds",
        fontsize=10,
    )
    axes.set_xlim(0, 1.25 * max(row["pairs_per_second_max"] for row in shown))
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=130)
