"""The picture of `fastvarcon bench kernels --varcon` or `--contrastive`: time and memory against the number of rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fastvarcon.bench.varcon import VARCON, Job, Subject
from fastvarcon.reporting.drawing import Axes, Figure, drawing, label, save

QUANTITIES = {"wall_ms": "wall time, ms", "device_ms": "device time, ms", "peak_extra_mb": "peak extra memory, MB"}
OURS = ("#1f5fbf", "#1aa7b8", "#0b2e6b")
THEIRS = ("#777777", "#d9730d", "#2a8a4a", "#b8336a", "#8a6d3b", "#7a5cc0")
POINTS = 200  # of the roofline


def draw(rows: list[dict], path: Path, subject: Subject = VARCON) -> None:
    """A column per (D, C), a line per competitor; on a GPU with the bound of an H200."""
    shown = [row for row in rows if "failure" not in row]
    columns = sorted({(row["dim"], row["classes"]) for row in shown})
    quantities = {name: unit for name, unit in QUANTITIES.items() if any(row.get(name) for row in shown)}
    competitors = list(dict.fromkeys(row["competitor"] for row in shown))
    with drawing(**{"font.size": 9}):
        figure = Figure(figsize=(max(7.5, 4.2 * len(columns)), 1.4 + 2.9 * len(quantities)), layout="constrained")
        grid = figure.subplots(len(quantities), len(columns), squeeze=False, sharex="col")
        for line, (name, unit) in enumerate(quantities.items()):
            for column, (dim, classes) in enumerate(columns):
                axes = grid[line][column]
                of_shape = [row for row in shown if (row["dim"], row["classes"]) == (dim, classes)]
                _lines(axes, of_shape, name, competitors)
                if name == "device_ms":
                    _roofline(axes, of_shape, subject)
                axes.set_title(f"D = {dim}, C = {classes:,}" if line == 0 else "", fontsize=10)
                axes.set_ylabel(unit if column == 0 else "")
                axes.set_xlabel("rows N" if line == len(quantities) - 1 else "")
        handles, labels = grid[min(1, len(quantities) - 1)][0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False, fontsize=8)
        figure.suptitle(
            label(f"{subject.title}, forward and backward, {shown[0]['dtype']}: {shown[0]['machine']}", 200), fontsize=9
        )
        save(figure, path, 130)


def _lines(axes: Axes, rows: list[dict], name: str, competitors: list[str]) -> None:
    ours = [competitor for competitor in competitors if competitor.startswith("fastvarcon")]
    theirs = [competitor for competitor in competitors if competitor not in ours]
    for competitor in competitors:
        points = sorted((row["rows"], row[name]) for row in rows if row["competitor"] == competitor and row.get(name))
        if competitor in ours:
            style: dict[str, Any] = {"color": OURS[ours.index(competitor) % len(OURS)], "linewidth": 2.4, "zorder": 3}
        else:
            style = {"color": THEIRS[theirs.index(competitor) % len(THEIRS)], "linewidth": 1.2, "linestyle": "--"}
        axes.plot(
            [x for x, _ in points], [y for _, y in points], marker="o", markersize=4, label=label(competitor), **style
        )
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    ticks = sorted({row["rows"] for row in rows})
    axes.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
    axes.xaxis.set_minor_formatter(NullFormatter())


def _roofline(axes: Axes, rows: list[dict], subject: Subject) -> None:
    low, high = min(row["rows"] for row in rows), max(row["rows"] for row in rows)
    xs = [low * (high / low) ** (i / POINTS) for i in range(POINTS + 1)] if high > low else [0.8 * low, 1.25 * low]
    first = rows[0]
    jobs = [Job(x, first["dim"], first["classes"], first["dtype"], "cuda", 0) for x in xs]
    bounds = [subject.bound_ms(job) for job in jobs]
    axes.plot(xs, bounds, color="black", linewidth=1, linestyle=":", label=subject.bound_label)
