"""Charts of evaluations as SVG pictures, in the style of the training curves."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ParamSpec

from fastvarcon.reporting.drawing import BLUE, GREEN, GREY, ORANGE, Axes, Figure, drawing, label, svg

Args = ParamSpec("Args")


def chart(draw: Callable[Args, Figure]) -> Callable[Args, str]:
    """Decorator: what the function draws, as SVG in the style of all charts."""

    @functools.wraps(draw)
    def drawn(*args: Args.args, **kwargs: Args.kwargs) -> str:
        with drawing():
            return svg(draw(*args, **kwargs))

    return drawn


COLOURS = (BLUE, ORANGE, GREEN, GREY)


@chart
def accuracy_over_epochs(curves: list[dict]) -> Figure:
    """Held-out top-1 over the epochs of the probes of all seeds."""
    figure, axes = _figure()
    for curve in curves:
        axes.plot(curve["epochs"], curve["top1"], marker="o", markersize=3)
    axes.set_xlabel("epoch")
    axes.set_ylabel("top-1")
    return figure


@chart
def few_shot(rows: list[dict]) -> Figure:
    """Mean and interval over the number of images a class, a line for each encoder and method."""
    figure, axes = _figure()
    lines: dict[tuple[str, str], list[dict]] = {}
    for row in rows:
        lines.setdefault((row["encoder"], row["method"]), []).append(row)
    for number, ((encoder, method), points) in enumerate(lines.items()):
        x, y, half = ([point[name] for point in points] for name in ("shots", "mean", "half_width"))
        colour = COLOURS[number % len(COLOURS)]
        axes.errorbar(
            x, y, half, label=label(f"{encoder}, {method}"), color=colour, marker="o", markersize=3, capsize=2
        )
    axes.set_xscale("log")
    axes.set_xticks(
        sorted({row["shots"] for row in rows}), [str(shots) for shots in sorted({r["shots"] for r in rows})]
    )
    axes.minorticks_off()
    axes.set_xlabel("labelled images a class")
    axes.set_ylabel("top-1")
    axes.legend(frameon=False, fontsize=9)
    return figure


@chart
def corruption(errors: dict[str, dict[str, float]], clean: float) -> Figure:
    """Error over severity, a line for each corruption; dotted: without corruption."""
    figure, axes = _figure(height=4.6)
    for number, (name, row) in enumerate(errors.items()):
        style = ("-", "--", ":")[number // 10 % 3]
        shown = label(name.replace("_", " "))
        axes.plot([int(s) for s in row], list(row.values()), style, marker="o", markersize=3, label=shown)
    axes.axhline(clean, color=GREY, linestyle=":", linewidth=1)
    axes.set_xticks(sorted({int(s) for row in errors.values() for s in row}))
    axes.set_xlabel("severity")
    axes.set_ylabel("top-1 error")
    figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=8)
    return figure


@chart
def dendrogram(tree: list[list[float]], names: list[str]) -> Figure:
    """The tree of class means with the names of the classes."""
    import numpy as np
    from scipy.cluster.hierarchy import dendrogram as draw

    figure, axes = _figure(height=max(2.0, 0.6 + 0.2 * len(names)))
    draw(
        np.array(tree, dtype=float),
        labels=[label(name) for name in names],
        orientation="left",
        ax=axes,
        leaf_font_size=9,
        color_threshold=0,
    )
    axes.grid(False)
    axes.spines["left"].set_visible(False)
    axes.set_xlabel("distance of class means")
    return figure


@chart
def reliability(bins: list[dict]) -> Figure:
    """Accuracy of each bin against its mean confidence; grey bars: the share of the images in it."""
    figure, axes = _figure()
    total = sum(one["count"] for one in bins)
    width = bins[0]["to"] - bins[0]["from"]
    middles = [(one["from"] + one["to"]) / 2 for one in bins]
    shares = [one["count"] / total for one in bins]
    axes.bar(middles, shares, width, color=GREY, alpha=0.3, label="share of the images")
    points = [(one["confidence"], one["accuracy"]) for one in bins if one["count"]]
    axes.plot([0, 1], [0, 1], color=GREY, linestyle=":", linewidth=1, label="as sure as it may be")
    axes.plot(*zip(*points, strict=True), color=BLUE, marker="o", markersize=4, label="accuracy")
    axes.set_xlabel("confidence")
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1.02)
    axes.legend(frameon=False, fontsize=9)
    return figure


@chart
def compared(groups: list[dict], score: str) -> Figure:
    """A point for each group of runs, its standard deviation over training seeds as a whisker."""
    figure, axes = _figure(height=0.8 + 0.4 * len(groups))
    places = range(len(groups))
    means = [group["scores"][score]["mean"] for group in groups]
    spreads = [group["scores"][score]["std"] or 0 for group in groups]
    axes.errorbar(means, places, xerr=spreads, fmt="o", color=BLUE, capsize=3)
    axes.set_yticks(places, [label(group["name"]) for group in groups])
    axes.margins(y=0.4)
    axes.invert_yaxis()
    axes.set_xlabel("top-1")
    return figure


def _figure(width: float = 6.4, height: float = 3.6) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots()
