"""`fastvarcon bench loader`: pairs of views per second and CPU-seconds per 1,000 pairs, ours and theirs in one run."""

from __future__ import annotations

import datetime
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from fastvarcon.bench.loader_competitors import BASELINE, DECODE, GPU_VIEWS, TWO_VIEWS, Job
from fastvarcon.bench.rounds import Competitor, Measured, measure
from fastvarcon.bench.rows import machine, versions
from fastvarcon.data.beton import JPG
from fastvarcon.data.records import Records, open_records
from fastvarcon.errors import UserError
from fastvarcon.machine import available_cores

COLUMNS = (
    "date", "dataset", "images", "mean_pixels", "mean_bytes", "task", "competitor", "size", "batch", "workers",
    "rounds", "pairs_per_second", "pairs_per_second_min", "pairs_per_second_max", "cpu_seconds_per_1000_pairs",
    "ratio_to_torchvision", "machine", "versions", "command",
)  # fmt: skip


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
                "machine": machine(),
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


def draw(rows: list[dict], path: Path) -> None:
    """Bar chart of pairs per second, with the spread over the rounds and the ratio to the torchvision loader."""
    from fastvarcon.bench.charts import Bar, draw_bars  # matplotlib takes a moment to load

    shown = sorted(
        (row for row in rows if "failure" not in row), key=lambda row: (row["task"], row["pairs_per_second"])
    )
    bars = [
        Bar(
            label=f"{row['competitor']}\n{row['task']}",
            per_second=row["pairs_per_second"],
            low=row["pairs_per_second_min"],
            high=row["pairs_per_second_max"],
            ratio=row["ratio_to_torchvision"],
            ours=row["competitor"].startswith("fastvarcon"),
        )
        for row in shown
    ]
    first = shown[0]
    draw_bars(
        {"": bars},
        path,
        xlabel=f"images decoded (decode) or pairs of {first['size']} px views made (two views) per second",
        title=f"{first['dataset']}: {first['images']:,} images of {first['mean_pixels']:,} pixels, "
        f"{first['workers']} workers, median and range of {first['rounds']} rounds",
    )
