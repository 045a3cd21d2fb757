"""The figure of a study, drawn from the rows of its table: means over seeds with their standard deviation."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

from fastvarcon.errors import UserError
from fastvarcon.reporting.drawing import BLUE, GREEN, GREY, ORANGE, Axes, Figure, drawing, label, save
from fastvarcon.studies.grid import Study

SCORES = {"linear_top1": "linear probe", "knn_top1": "kNN, k = 20"}
FEW_SHOT = {"few_shot_logistic": "logistic regression", "few_shot_mean": "nearest class mean"}
LOOKS = [(colour, style) for style in ("-", "--") for colour in (BLUE, ORANGE, GREEN, GREY)]
RING: dict[str, Any] = {"s": 16, "facecolors": "none", "edgecolors": GREY, "linewidths": 0.9, "zorder": 3}

Rows = list[dict[str, str]]


def draw(study: Study, rows: Rows, path: Path) -> None:
    """Write the figure, as the suffix of `path` says. Raises UserError without rows."""
    if not rows:
        raise UserError(f"there is no finished run of {study.name} to draw")
    panels = FEW_SHOT if study.shots else SCORES
    by_name = study.axis is None and not study.shots
    height = 1.3 + 0.36 * len(groups(rows)) if by_name else 3.8
    with drawing():
        figure = Figure(figsize=(10, height), layout="constrained")
        for axes, (score, title) in zip(figure.subplots(1, 2, sharey=by_name), panels.items(), strict=True):
            if by_name:
                _by_name(axes, rows, score)
            elif study.shots:
                _by_shots(axes, rows, score)
            else:
                _by_value(axes, study, rows, score)
            axes.set_title(title)
        seeds = sorted({len(group) for group in groups(rows).values()})
        figure.supxlabel(
            f"mean ± standard deviation over {' or '.join(map(str, seeds))} training seed(s), rings: single runs",
            fontsize=9,
            color=GREY,
        )
        save(figure, path, 110)


def names(rows: Rows, column: str) -> list[str]:
    """In the order in which they come."""
    return list(dict.fromkeys(row[column] for row in rows))


def groups(rows: Rows) -> dict[tuple[str, str], Rows]:
    """Runs that differ in the seed alone, by series and point."""
    found: dict[tuple[str, str], Rows] = {}
    for row in rows:
        found.setdefault((row["series"], row["point"]), []).append(row)
    return found


def _by_value(axes: Axes, study: Study, rows: Rows, score: str) -> None:
    for number, series in enumerate(names(rows, "series")):
        by_value: dict[float, list[float]] = {}
        for row in rows:
            if row["series"] == series:
                by_value.setdefault(float(row["value"]), []).append(float(row[score]))
        _line(axes, by_value, series, number)
    values = sorted({float(row["value"]) for row in rows})
    assert study.axis is not None
    if study.axis.log:
        axes.set_xscale("log")
    axes.set_xticks(values, [f"{value:g}" for value in values])
    axes.minorticks_off()
    axes.set_xlabel(study.axis.label)
    axes.set_ylabel("top-1, %")
    if len(names(rows, "series")) > 1:
        axes.legend(frameon=False, fontsize=9)


def _by_shots(axes: Axes, rows: Rows, score: str) -> None:
    shots: set[float] = set()
    for number, ((series, point), runs) in enumerate(groups(rows).items()):
        by_shots: dict[float, list[float]] = {}
        for row in runs:
            for pair in row[score].split():
                images, top1 = pair.split(":")
                by_shots.setdefault(float(images), []).append(float(top1))
        _line(axes, by_shots, point if len(names(rows, "series")) == 1 else f"{series}, {point}", number)
        shots |= by_shots.keys()
    axes.set_xscale("log")
    axes.set_xticks(sorted(shots), [f"{images:g}" for images in sorted(shots)])
    axes.minorticks_off()
    axes.set_xlabel("labelled images a class")
    axes.set_ylabel("top-1, %")
    axes.legend(frameon=False, fontsize=9)


def _line(axes: Axes, by_x: dict[float, list[float]], name: str, number: int) -> None:
    """Means with whiskers, the runs as rings."""
    colour, style = LOOKS[number % len(LOOKS)]
    x = sorted(by_x)
    mean = [100 * statistics.mean(by_x[one]) for one in x]
    std = [100 * statistics.stdev(by_x[one]) if len(by_x[one]) > 1 else 0.0 for one in x]
    axes.errorbar(x, mean, std, linestyle=style, color=colour, marker="o", markersize=4, capsize=3, label=label(name))
    dots = [(one, 100 * value) for one in x for value in by_x[one]]
    axes.scatter(*zip(*dots, strict=True), **RING)


def _by_name(axes: Axes, rows: Rows, score: str) -> None:
    """A line for each point; dotted: the mean of the first."""
    several = len(names(rows, "series")) > 1
    found = groups(rows)
    for number, runs in enumerate(found.values()):
        values = [100 * float(row[score]) for row in runs]
        std = statistics.stdev(values) if len(values) > 1 else 0.0
        axes.errorbar(statistics.mean(values), number, xerr=std, fmt="o", color=BLUE, markersize=5, capsize=3)
        axes.scatter(values, [number] * len(values), **RING)
        if number == 0:
            axes.axvline(statistics.mean(values), color=GREY, linestyle=":", linewidth=1)
    axes.set_yticks(range(len(found)), [label(", ".join(key) if several else key[1]) for key in found])
    axes.margins(y=0.15)
    axes.yaxis.set_inverted(True)
    axes.set_xlabel("top-1, %")
