"""Scores of a run folder as rows, for the terminal and for the page."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from rich.table import Table

from fastvarcon.config import Config
from fastvarcon.errors import UserError
from fastvarcon.run_folder import read_json

LOSS_TITLES = {
    "varcon": "VarCon",
    "supcon": "SupCon",
    "simclr": "SimCLR",
    "cross_entropy": "cross-entropy",
    "sincere": "SINCERE",
    "hscl": "H-SCL",
    **{name: name.upper() for name in ("dcl", "nscl", "ssem", "dhel", "kcl", "clop")},
}
KINDS = {"linear": "linear", "knn": "kNN"}


@dataclass(frozen=True)
class ScoreRow:
    what: str
    top1: float
    top5: float | None
    protocol: str
    num_val: int
    command: str


def score_rows(run: Path) -> list[ScoreRow]:
    """What eval/*.json say, encoder before pixels; scores of an encoder that has been replaced since say so.

    Raises:
        UserError: a file that is not a score.
    """
    title = LOSS_TITLES[Config.load(run / "config.json").loss.name]
    weights = run / "encoder.safetensors"
    current = hashlib.sha256(weights.read_bytes()).hexdigest() if weights.exists() else None
    rows = []
    for path in sorted((run / "eval").glob("*.json")):
        score = read_json(path)
        try:
            of_encoder = score["features"] == "encoder"
            what = f"{title if of_encoder else 'raw-pixel'} {KINDS[score['name']]}"
            if of_encoder and score["encoder_sha256"] != current:
                what += " of an EARLIER encoder: run eval again"
            top5 = score.get("top5")
            row = ScoreRow(
                what=what,
                top1=float(score["top1"]),
                top5=None if top5 is None else float(top5),
                protocol=str(score["protocol"]),
                num_val=int(score["num_val"]),
                command=str(score["command"]),
            )
        except (ValueError, KeyError, TypeError):
            raise UserError(f"{path} is not a score that `fastvarcon eval` wrote: remove it") from None
        rows.append((not of_encoder, score["name"] != "linear", row))
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
