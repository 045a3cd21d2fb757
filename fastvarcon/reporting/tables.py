"""Scores of a run folder as rows, for the terminal and for the page."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from rich.table import Table

from fastvarcon.config import Config
from fastvarcon.errors import UserError

LOSS_TITLES = {"varcon": "VarCon"}


@dataclass(frozen=True)
class ScoreRow:
    what: str
    top1: float
    top5: float | None
    protocol: str
    num_val: int
    command: str


def score_rows(run: Path) -> list[ScoreRow]:
    """What eval/*.json say, encoder before pixels. Raises UserError for a file that is not a score."""
    title = LOSS_TITLES[Config.load(run / "config.json").loss.name]
    rows = []
    for path in sorted((run / "eval").glob("*.json")):
        try:
            score = json.loads(path.read_text(encoding="utf-8"))
            encoder = score["features"] == "encoder"
            kind = {"linear": "linear", "knn": "kNN"}[score["name"]]
            rows.append(
                (
                    not encoder,
                    score["name"] != "linear",
                    ScoreRow(
                        f"{title if encoder else 'raw-pixel'} {kind}",
                        score["top1"],
                        score.get("top5"),
                        score["protocol"],
                        score["num_val"],
                        score["command"],
                    ),
                )
            )
        except (ValueError, KeyError, TypeError):
            raise UserError(f"{path} is not a score that `fastvarcon eval` wrote: remove it") from None
    return [row for _, _, row in sorted(rows, key=lambda r: r[:2])]


def score_table(run: Path) -> Table:
    table = Table(title=str(run))
    for column in ("score", "top-1", "held-out images", "protocol"):
        table.add_column(column, justify="left" if column in ("score", "protocol") else "right")
    for row in score_rows(run):
        table.add_row(row.what, f"{row.top1:.2%}", f"{row.num_val:,}", row.protocol)
    if not table.rows:
        table.add_row("none yet", "", "", f"fastvarcon eval linear {run}")
    return table
