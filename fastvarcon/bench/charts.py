"""The bar chart of a benchmark."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fastvarcon.reporting.drawing import Figure, drawing, label, save

LINE = 200  # letters of a title
OURS, THEIRS = "#2a6fbb", "#b0b0b0"


@dataclass(frozen=True)
class Bar:
    label: str
    per_second: float
    low: float
    """Least and highest of the rounds."""
    high: float
    ratio: float
    """To the baseline."""
    ours: bool


def draw_bars(panels: dict[str, list[Bar]], path: Path, *, xlabel: str, title: str) -> None:
    """Items per second, with the spread over the rounds and the ratio to the baseline; the first bar lies lowest.

    Args:
        panels: bars by the name of their panel; each has a scale of its own. A single one shows no name.
    """
    with drawing():
        save(_bars(panels, xlabel, title), path, 130)


def _bars(panels: dict[str, list[Bar]], xlabel: str, title: str) -> Figure:
    heights = [0.55 + 0.42 * len(bars) for bars in panels.values()]
    figure = Figure(figsize=(9, 0.65 + sum(heights)), layout="constrained")
    grid = figure.subplots(len(panels), 1, squeeze=False, height_ratios=heights)
    for (name, bars), (axes,) in zip(panels.items(), grid, strict=True):
        for place, bar in enumerate(bars):
            spread = [[bar.per_second - bar.low], [bar.high - bar.per_second]]
            colour = OURS if bar.ours else THEIRS
            axes.barh(place, bar.per_second, xerr=spread, color=colour, ecolor="#444444", capsize=2)
            axes.annotate(f" {bar.per_second:,.0f}  ({bar.ratio:.1f}x)", (bar.high, place), va="center", fontsize=9)
        axes.set_yticks(range(len(bars)), ["\n".join(map(label, bar.label.split("\n"))) for bar in bars], fontsize=8)
        axes.set_xlim(0, 1.25 * max(bar.high for bar in bars))
        axes.spines[["top", "right"]].set_visible(False)
        if len(panels) > 1:
            axes.set_title(name, fontsize=9, loc="left")
    axes.set_xlabel(xlabel)
    figure.suptitle(label(title, LINE), fontsize=10)
    return figure
