"""`fastvarcon bench step`: a whole training step next to the reference recipe's, same model and batch, in one run."""

from __future__ import annotations

import datetime
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from fastvarcon.bench.loader import write_folder
from fastvarcon.bench.rounds import Competitor, Measured, measure
from fastvarcon.bench.rows import machine, versions
from fastvarcon.bench.step_ours import EncoderShare, Job, real, synthetic
from fastvarcon.bench.step_reference import reference
from fastvarcon.config import Config
from fastvarcon.data.records import open_records
from fastvarcon.errors import UserError
from fastvarcon.machine import available_cores

REFERENCE, SYNTHETIC, REAL = "reference loop", "fastvarcon, synthetic data", "fastvarcon, real data"
ENCODER = "encoder alone"
WARM_UP = 4  # steps, of which one on a CPU may take seconds
COMPETITORS: dict[str, Competitor] = {REFERENCE: reference, SYNTHETIC: synthetic, REAL: real, ENCODER: EncoderShare}
COLUMNS = (
    "date", "dataset", "images", "mean_pixels", "encoder", "width", "small_images", "size", "views", "batch",
    "precision", "backend", "workers", "competitor", "rounds", "views_per_second", "views_per_second_min",
    "views_per_second_max", "data_wait_fraction", "peak_gpu_mb", "peak_host_mb", "cpu_seconds_per_1000_views",
    "ratio_to_reference", "ratio_to_synthetic", "framework_overhead", "machine", "versions", "command",
)  # fmt: skip


def bench_step(
    config: Config,
    images: Path | None,
    *,
    rounds: int,
    seconds: float,
    command: str,
    on_step: Callable[[str], None],
) -> list[dict]:
    """Rows of COLUMNS, one per competitor; one that cannot run has no figures and says why in `failure`.

    `framework_overhead` is the share of a step that is not the encoder's forward and backward.

    Args:
        config: data, model, loss and batch of one process; `config.out` plays no part.
        images: the training images as a folder; None = they are written out to a temporary one.
    """
    config.validate()
    if config.data.backend == "folder":
        raise UserError("--data.backend folder is what the reference does: give a converted file and another backend")
    records = open_records(config.data.train_file)
    try:
        if len(records) < config.train.global_batch:
            raise UserError(
                f"{config.data.train} holds {len(records)} images, less than a batch: lower --train.global-batch"
            )
        with tempfile.TemporaryDirectory(prefix="fastvarcon-bench-") as temporary:
            if images is None:
                on_step("writing the images out for the reference")
                images = write_folder(records, config.data.train_file, Path(temporary))
            job = Job(config, images.resolve(), config.data.workers or available_cores())
            results = measure(COMPETITORS, job, rounds=rounds, seconds=seconds, warm_up=WARM_UP, on_step=on_step)
        facts = {
            "date": datetime.date.today().isoformat(),
            "dataset": config.data.train_file.stem,
            "images": len(records),
            "mean_pixels": round(float(np.mean(records.heights.astype(np.int64) * records.widths))),
            **_settings(config, job.workers),
            "rounds": rounds,
            "machine": machine(),
            "versions": versions(),
            "command": command,
        }
    finally:
        records.close()
    return [{**facts, "competitor": name, **_figures(name, results)} for name in COMPETITORS]


def _settings(config: Config, workers: int) -> dict:
    model, data, train = config.model, config.data, config.train
    return {
        "encoder": model.encoder,
        "width": model.width,
        "small_images": model.small_images,
        "size": data.size,
        "views": data.num_views,
        "batch": train.global_batch,
        "precision": train.precision,
        "backend": data.backend,
        "workers": workers,
    }


def _figures(name: str, results: dict[str, Measured]) -> dict:
    result = results[name]
    if result.failure:
        return {"failure": result.failure}
    rates = [figures["views_per_second"] for figures in result.figures] if name == ENCODER else result.per_second
    rate = float(np.median(rates))
    row = {
        "views_per_second": round(rate, 1),
        "views_per_second_min": round(min(rates), 1),
        "views_per_second_max": round(max(rates), 1),
    }
    for column, baseline in (("ratio_to_reference", REFERENCE), ("ratio_to_synthetic", SYNTHETIC)):
        if not results[baseline].failure:
            row[column] = round(rate / results[baseline].median, 3)
    if name == ENCODER:
        return row
    row["data_wait_fraction"] = round(result.figure("waiting"), 4)
    row["peak_gpu_mb"], row["peak_host_mb"] = round(result.figure("gpu_mb")), round(result.figure("host_mb"))
    row["cpu_seconds_per_1000_views"] = round(result.cpu, 4)
    encoder = results[ENCODER]
    if not encoder.failure and name == SYNTHETIC:
        row["framework_overhead"] = round(encoder.figure("overhead"), 4)
    if not encoder.failure and name == REAL:
        row["framework_overhead"] = round(1 - rate / encoder.figure("views_per_second"), 4)
    return row


def draw(rows: list[dict], path: Path) -> None:
    """Bar chart of views per second, with the spread over the rounds and the ratio to the reference loop."""
    from fastvarcon.bench.charts import Bar, draw_bars  # matplotlib takes a moment to load

    shown = sorted((row for row in rows if "failure" not in row), key=lambda row: row["views_per_second"])
    bars = [
        Bar(
            label=row["competitor"],
            per_second=row["views_per_second"],
            low=row["views_per_second_min"],
            high=row["views_per_second_max"],
            ratio=row.get("ratio_to_reference", float("nan")),
            ours=row["competitor"].startswith("fastvarcon"),
        )
        for row in shown
    ]
    first = shown[0]
    draw_bars(
        {"views per second": bars},
        path,
        xlabel="views trained on per second (behind it: times the reference loop)",
        title=f"{first['encoder']} width {first['width']:g}, {first['size']} px, {first['batch']} x {first['views']} "
        f"views, {first['dataset']} by {first['backend']}, median and range of {first['rounds']} rounds",
    )
