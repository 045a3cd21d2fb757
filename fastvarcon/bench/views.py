"""`fastvarcon bench kernels --views`: SimAugment views per second, ours and theirs in one run on the same cores."""

from __future__ import annotations

import datetime
import statistics
from collections.abc import Callable
from pathlib import Path

from fastvarcon.bench.rows import driver, machine, versions
from fastvarcon.bench.timing import Times, measure_calls
from fastvarcon.bench.views_competitors import BASELINE, OURS, PARAMETERS, VIEWS, Job, competitors
from fastvarcon.errors import UserError

COLUMNS = (
    "date", "device", "task", "competitor", "size", "source", "batch", "workers", "rounds",
    "views_per_second", "views_per_second_min", "views_per_second_max",
    "device_ms", "device_ms_min", "device_ms_max", "device_method",
    "ratio_to_torchvision", "ratio_min", "ratio_max", "machine", "driver", "versions", "command",
)  # fmt: skip


def bench_views(
    job: Job,
    *,
    rounds: int,
    seconds: float,
    only: tuple[str, ...],
    command: str,
    on_step: Callable[[str], None],
) -> list[dict]:
    """Rows of COLUMNS, one per competitor; one that cannot run says why in `failure`.

    Raises:
        UserError: the baseline could not run.
    """
    chosen = {
        name: setup
        for name, setup in competitors(job.device).items()
        if name == BASELINE or not only or any(part in f"{job.task}: {name}" for part in only)
    }
    times = measure_calls(
        chosen,
        job,
        device=job.device,
        rounds=rounds,
        seconds=seconds,
        on_step=lambda step: on_step(f"{job.task}: {step}"),
    )
    base = times[BASELINE]
    if base.failure:
        raise UserError(f"the baseline could not run: {base.failure}")
    facts = {
        "date": datetime.date.today().isoformat(),
        "device": job.device,
        "task": job.task,
        "size": job.size,
        "source": job.source,
        "batch": job.batch,
        "workers": job.workers,
        "rounds": rounds,
        "machine": machine(),
        "driver": driver(),
        "versions": versions(),
        "command": command,
    }
    rows = []
    for name, measured in times.items():
        figures = {"failure": measured.failure} if measured.failure else _figures(measured, base, job)
        if name == PARAMETERS:  # makes no views: nothing to compare
            figures = {key: value for key, value in figures.items() if not key.startswith("ratio")}
        rows.append({**facts, "competitor": name, **figures})
    return rows


def _figures(times: Times, base: Times, job: Job) -> dict:
    rates = [VIEWS * job.batch / seconds for seconds in times.wall]
    ratios = [theirs / ours for theirs, ours in zip(base.wall, times.wall, strict=True)]
    figures: dict[str, float | str] = {
        "views_per_second": round(statistics.median(rates), 1),
        "views_per_second_min": round(min(rates), 1),
        "views_per_second_max": round(max(rates), 1),
        "ratio_to_torchvision": round(base.median / times.median, 2),
        "ratio_min": round(min(ratios), 2),
        "ratio_max": round(max(ratios), 2),
    }
    if times.device:
        milliseconds = [1000 * seconds for seconds in times.device]
        figures |= {
            "device_ms": round(statistics.median(milliseconds), 4),
            "device_ms_min": round(min(milliseconds), 4),
            "device_ms_max": round(max(milliseconds), 4),
            "device_method": times.device_method,
        }
    return figures


def verdict(rows: list[dict]) -> list[str]:
    """What ours is to the baseline, a line for each task."""
    lines = []
    for row in rows:
        if row["competitor"] == OURS[row["device"]] and "failure" not in row:
            line = (
                f"{row['competitor']}, {row['task']}: {row['views_per_second']:,.0f} views/s, "
                f"{row['ratio_to_torchvision']:.1f}x {BASELINE} (n={row['rounds']} rounds, {row['ratio_min']:.1f} to "
                f"{row['ratio_max']:.1f})"
            )
            if "device_ms" in row:
                rate = VIEWS * row["batch"] / row["device_ms"] * 1000
                line += (
                    f"; the kernel alone {row['device_ms']:.3f} ms for {row['batch']:,} pairs, {rate:,.0f} views/s "
                    f"({row['device_ms_min']:.3f} to {row['device_ms_max']:.3f} ms)"
                )
            lines.append(line)
    return lines


def draw(rows: list[dict], path: Path) -> None:
    """Bar chart of views per second; the tasks one above the other, each on a scale of its own."""
    from fastvarcon.bench.charts import Bar, draw_bars

    shown = [row for row in rows if "failure" not in row and row["competitor"] != PARAMETERS]
    panels: dict[str, list[Bar]] = {}
    for row in sorted(shown, key=lambda row: row["views_per_second"]):
        bar = Bar(
            label=row["competitor"],
            per_second=row["views_per_second"],
            low=row["views_per_second_min"],
            high=row["views_per_second_max"],
            ratio=row["ratio_to_torchvision"],
            ours=row["competitor"].startswith("fastvarcon"),
        )
        panels.setdefault(f"{row['task']}, {row['batch']:,} images a batch", []).append(bar)
    first = rows[0]
    where = f"{first['workers']} workers" if first["device"] == "cpu" else "GPU"
    draw_bars(
        panels,
        path,
        xlabel="views per second",
        title=f"SimAugment: {first['machine']}, {where}, median and range of {first['rounds']} rounds",
    )
