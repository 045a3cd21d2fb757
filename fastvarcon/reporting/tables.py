"""Scores of a folder as rows, for the terminal and for the page."""

from __future__ import annotations

from dataclasses import dataclass

from rich.table import Table
from rich.text import Text

from fastvarcon.evaluation.intervals import wilson
from fastvarcon.reporting.scored import Scored
from fastvarcon.reporting.titles import kind_of
from fastvarcon.terminal import add_row
from fastvarcon.visible import visible

ACCURACIES = ("linear", "linear-paper", "knn", "calibration")
"""Evaluations whose top-1 is a share of the held-out images, not a mean over several sets of them."""


@dataclass(frozen=True)
class ScoreRow:
    what: str
    top1: float
    spread: float | None
    """Standard deviation over seeds."""
    interval: tuple[float, float] | None
    """95 % interval over held-out images."""
    top5: float | None
    protocol: str
    num_val: int
    command: str


def score_rows(scored: Scored) -> list[ScoreRow]:
    """What the scores say about top-1; those of an encoder that has been replaced since say so."""
    rows = []
    for stem, score in scored.scores.items():
        if "top1" not in score:
            continue
        what = f"{scored.title_of(stem)} {kind_of(stem)}"
        if stem in scored.stale:
            what += " of an EARLIER encoder: run eval again"
        rows.append(
            ScoreRow(
                what,
                score["top1"],
                score.get("top1_std"),
                interval_of(stem, score),
                score.get("top5"),
                score["protocol"],
                score.get("num_val", 0),
                score["command"],
            )
        )
    return rows


def interval_of(stem: str, score: dict) -> tuple[float, float] | None:
    """95 % interval of the top-1 of eval/STEM.json; None where it is not a share of the held-out images."""
    counted = stem.removesuffix("-pixels") in ACCURACIES and score.get("num_val")
    return wilson(score["top1"], score["num_val"]) if counted and "top1" in score else None


def score_table(scored: Scored) -> Table:
    table = Table(title=Text(visible(str(scored.path))))
    for column in ("score", "top-1", "95 % interval", "held-out images", "protocol"):
        table.add_column(column, justify="left" if column in ("score", "protocol") else "right")
    for row in score_rows(scored):
        add_row(table, row.what, percent(row.top1, row.spread), between(row.interval), f"{row.num_val:,}", row.protocol)
    if not table.rows:
        add_row(table, "none yet", "", "", "", f"fastvarcon eval linear {scored.path}")
    return table


def percent(value: float, spread: float | None = None) -> str:
    """0.981, 0.002 -> "98.10% ± 0.20" """
    return f"{value:.2%}" + ("" if spread is None else f" ± {100 * spread:.2f}")


def between(interval: tuple[float, float] | None) -> str:
    """(0.972, 0.9951) -> "97.2 to 99.5" """
    return "" if interval is None else " to ".join(f"{100 * end:.1f}" for end in interval)


def in_words(stem: str, result: dict) -> str:
    """What `fastvarcon eval` prints: a headline, then a line for each further figure."""
    lines = []
    if "top1" in result:
        interval = interval_of(stem, result)
        lines.append(
            f"{result['name']} on {result['features']}: top-1 {percent(result['top1'], result.get('top1_std'))}"
            + (f", 95 % interval {between(interval)} over {result['num_val']:,} images" if interval else "")
            + (f", top-5 {result['top5']:.2%}" if result.get("top5") is not None else "")
            + f"  ({result['protocol']})"
        )
    else:
        lines.append(f"{result['name']} on {result['features']}  ({result['protocol']})")
    if "best_epoch_top1_test_selected" in result:
        lines.append(f"  best epoch, selected on the test images: {result['best_epoch_top1_test_selected']:.2%}")
    for neighbours, top1 in result.get("top1_by_k", {}).items():
        weighted = result["weighted_top1_by_k"][neighbours]
        lines.append(f"  k = {neighbours:>4}  {top1:.2%}   weighted {weighted:.2%}")
    if "nearest_class_mean_top1" in result:
        lines.append(f"  nearest class mean  {result['nearest_class_mean_top1']:.2%}")
    return "\n".join(map(visible, lines + [f"  {line}" for line in result.get("lines", [])]))
