"""Curves of a training run as SVG pictures."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from fastvarcon.config import Config
from fastvarcon.reporting.drawing import BLUE, GREEN, GREY, ORANGE, Axes, Figure, drawing, svg


def training_curves(rows: list[dict], config: Config) -> dict[str, str]:
    """{title: SVG text} over the steps of metrics.jsonl `rows`: loss, accuracy, and what else the run has logged."""
    steps = [row for row in rows if row["kind"] == "step"]
    epochs = [row for row in rows if row["kind"] == "epoch"]
    curves: dict[str, Callable[[Axes], None]] = {
        "Loss": lambda axes: _loss(axes, steps),
        "Accuracy": lambda axes: _accuracy(axes, steps, epochs),
    }
    if any("tau2" in row for row in steps):
        curves["Adaptive temperature tau2"] = lambda axes: _tau2(axes, steps, config)
        curves["Confidence"] = lambda axes: _confidence(axes, steps)
    if any("nscl_gap" in row for row in steps):
        curves["DCL and NSCL at temperature 1"] = lambda axes: _nscl(axes, steps)
        curves["Gap of DCL and NSCL"] = lambda axes: _gap(axes, steps)
    spreads = {
        "Spread of tau2": ("tau2", config.loss.tau1 - config.loss.eps, config.loss.tau1 + config.loss.eps),
        "Spread of confidence": ("confidence", 0.0, 1.0),
    }
    for title, (name, low, high) in spreads.items():
        shown = _milestones([row for row in epochs if f"{name}_histogram" in row])
        if shown:
            curves[title] = functools.partial(_spread, epochs=shown, name=name, low=low, high=high)
    with drawing():
        return {title: _svg(draw) for title, draw in curves.items()}


def _loss(axes: Axes, steps: list[dict]) -> None:
    _line(axes, steps, "loss", "loss", BLUE)
    _line(axes, steps, "nll", "NLL term", GREEN)
    _line(axes, steps, "kl", "KL term", ORANGE, linestyle="--")  # the two terms are nearly equal: keep both visible
    axes.set_ylabel("nats")
    if all(row["loss"] >= 0 for row in steps):  # dcl, nscl and their like may be negative
        axes.set_ylim(bottom=0)


def _nscl(axes: Axes, steps: list[dict]) -> None:
    _line(axes, steps, "dcl_tau1", "DCL: all other images", BLUE)
    _line(axes, steps, "nscl_tau1", "NSCL: other classes", ORANGE)
    axes.set_ylabel("nats")


def _gap(axes: Axes, steps: list[dict]) -> None:
    _line(axes, steps, "nscl_gap", "DCL - NSCL", BLUE)
    _line(axes, steps, "nscl_bound", "bound of the theorem", GREY, linestyle=":")
    axes.set_ylabel("nats")
    axes.set_ylim(bottom=0)


def _accuracy(axes: Axes, steps: list[dict], epochs: list[dict]) -> None:
    _line(axes, epochs, "val_knn_top1", "held-out kNN (k = 20)", BLUE, marker="o", markersize=3)
    _line(axes, epochs, "val_centroid_top1", "held-out nearest mean", GREEN, marker="o", markersize=3)
    _line(axes, steps, "hit", "nearest centroid within the batch", GREY, linewidth=1)
    _line(axes, steps, "batch_top1", "classifier on the training batch", GREY, linewidth=1)
    axes.set_ylabel("top-1")
    axes.set_ylim(0, 1.02)


def _tau2(axes: Axes, steps: list[dict], config: Config) -> None:
    _line(axes, steps, "tau2", "mean over rows", BLUE)
    x, mean, std = ([row[name] for row in steps] for name in ("step", "tau2", "tau2_std"))
    low, high = [m - s for m, s in zip(mean, std, strict=True)], [m + s for m, s in zip(mean, std, strict=True)]
    axes.fill_between(x, low, high, color=BLUE, alpha=0.15, linewidth=0, label="one standard deviation")
    for bound in (config.loss.tau1 - config.loss.eps, config.loss.tau1 + config.loss.eps):
        axes.axhline(bound, color=GREY, linestyle=":", linewidth=1)
    axes.set_ylabel("tau2")


def _confidence(axes: Axes, steps: list[dict]) -> None:
    _line(axes, steps, "confidence", "p(own class), mean over rows", BLUE)
    axes.set_ylabel("probability")
    axes.set_ylim(0, 1.02)


def _milestones(epochs: list[dict]) -> list[dict]:
    """An early epoch, a quarter, half and all of the way, as the reference dumps them (10, 50, 100, 200 of 200)."""
    places = {max(0, round(share * len(epochs)) - 1) for share in (0.05, 0.25, 0.5, 1.0)}
    return [epochs[place] for place in sorted(places)] if epochs else []


def _spread(axes: Axes, epochs: list[dict], name: str, low: float, high: float) -> None:
    for number, row in enumerate(epochs):
        counts = row[f"{name}_histogram"]
        width = (high - low) / len(counts)
        density = [count / (sum(counts) * width) for count in counts]
        edges = [low + width * index for index in range(len(counts) + 1)]
        strength = (number + 1) / len(epochs)
        axes.stairs(density, edges, color=BLUE, alpha=0.15 + 0.85 * strength, label=f"epoch {row['epoch']}")
    axes.set_xlabel(f"{name} of a row")
    axes.set_ylabel("density")


def _line(axes: Axes, rows: list[dict], name: str, label: str, colour: str, **style: Any) -> None:
    points = [(row["step"], row[name]) for row in rows if row.get(name) is not None]
    if points:
        axes.plot(*zip(*points, strict=True), label=label, color=colour, **style)


def _svg(draw: Callable[[Axes], None]) -> str:
    figure = Figure(figsize=(6.4, 3.6), layout="constrained")
    axes = figure.subplots()
    draw(axes)
    if not axes.get_xlabel():
        axes.set_xlabel("optimiser step")
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False, fontsize=9)
    return svg(figure)
