"""Charts of evaluations as SVG pictures, in the style of the training curves."""

from __future__ import annotations

import io

import matplotlib
from matplotlib.figure import Figure

from fastvarcon.reporting.plots import BLUE, GREEN, GREY, ORANGE, STYLE

COLOURS = (BLUE, ORANGE, GREEN, GREY)


def accuracy_over_epochs(curves: list[dict]) -> str:
    """Held-out top-1 over the epochs of the probes of all seeds."""
    figure, axes = _figure()
    for curve in curves:
        axes.plot(curve["epochs"], curve["top1"], marker="o", markersize=3)
    axes.set_xlabel("epoch")
    axes.set_ylabel("top-1")
    return _svg(figure)


def _figure(width: float = 6.4, height: float = 3.6):
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        return figure, figure.subplots()


def _svg(figure: Figure) -> str:
    stream = io.StringIO()
    with matplotlib.rc_context(STYLE):
        figure.savefig(stream, format="svg", metadata={"Date": None})
    return stream.getvalue()
