"""Scores of a folder as rows, for the terminal and for the page."""

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
KINDS = {
    "linear": "linear",
    "linear-paper": "linear, paper protocol",
    "knn": "kNN",
    "few-shot": "few-shot",
    "transfer": "transfer",
    "corruption": "corruption",
    "clustering": "clustering",
    "embed": "embedding",
    "calibration": "calibration",
    "geometry": "geometry of classes and views",
    "alignment": "alignment with another encoder",
}
ORDER = list(KINDS)


@dataclass(frozen=True)
class ScoreRow:
    what: str
    top1: float
    spread: float | None
    """Standard deviation over seeds."""
    top5: float | None
    protocol: str
    num_val: int
    command: str


def results(run: Path) -> dict[str, dict]:
    """eval/*.json by their stems, encoder before pixels.

    Raises:
        UserError: a file that is not a score.
    """
    found = {}
    for path in sorted((run / "eval").glob("*.json")):
        score = read_json(path)
        try:
            wrong = score["features"] not in ("encoder", "pixels") or not isinstance(score["name"], str)
            wrong |= not (isinstance(score["seconds"], float | int) and isinstance(score["command"], str))
            wrong |= "seed" not in score or isinstance(score.get("top1", 0.0), str)
        except KeyError:
            wrong = True
        if wrong:
            raise UserError(f"{path} is not a score that `fastvarcon eval` wrote: remove it")
        found[path.stem] = score

    def place(stem: str) -> tuple:
        name = stem.removesuffix("-pixels")
        return name != stem, ORDER.index(name) if name in ORDER else len(ORDER), stem

    return {stem: found[stem] for stem in sorted(found, key=place)}


def title_of(run: Path, result: dict) -> str:
    """Of a score: the loss of its run, else the encoder's name."""
    if result["features"] == "pixels":
        return "raw-pixel"
    if not (run / "config.json").exists():
        return result["title"]
    loss = Config.load(run / "config.json").loss.name
    return LOSS_TITLES.get(loss, loss)


def stale(run: Path, result: dict) -> bool:
    """The score is of an encoder that has been replaced since."""
    weights = run / "encoder.safetensors"
    if result["features"] == "pixels" or not weights.exists():
        return False
    return result["encoder_sha256"] != hashlib.sha256(weights.read_bytes()).hexdigest()


def score_rows(run: Path) -> list[ScoreRow]:
    """What eval/*.json say about top-1; scores of an encoder that has been replaced since say so.

    Raises:
        UserError: a file that is not a score.
    """
    rows = []
    for stem, score in results(run).items():
        if "top1" not in score:
            continue
        name = stem.removesuffix("-pixels")
        what = f"{title_of(run, score)} {KINDS.get(name, name)}"
        if stale(run, score):
            what += " of an EARLIER encoder: run eval again"
        spread, top5 = score.get("top1_std"), score.get("top5")
        rows.append(
            ScoreRow(what, score["top1"], spread, top5, score["protocol"], score.get("num_val", 0), score["command"])
        )
    return rows


def score_table(run: Path) -> Table:
    table = Table(title=str(run))
    for column in ("score", "top-1", "held-out images", "protocol"):
        table.add_column(column, justify="left" if column in ("score", "protocol") else "right")
    for row in score_rows(run):
        table.add_row(row.what, percent(row.top1, row.spread), f"{row.num_val:,}", row.protocol)
    if not table.rows:
        table.add_row("none yet", "", "", f"fastvarcon eval linear {run}")
    return table


def percent(value: float, spread: float | None = None) -> str:
    """0.981, 0.002 -> "98.10% ± 0.20" """
    return f"{value:.2%}" + ("" if spread is None else f" ± {100 * spread:.2f}")


def in_words(result: dict) -> str:
    """What `fastvarcon eval` prints: a headline, then a line for each further figure."""
    lines = []
    if "top1" in result:
        top5 = f", top-5 {result['top5']:.2%}" if result.get("top5") is not None else ""
        lines.append(
            f"{result['name']} on {result['features']}: top-1 {percent(result['top1'], result.get('top1_std'))}{top5}"
            f"  ({result['protocol']})"
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
    return "\n".join(lines + [f"  {line}" for line in result.get("lines", [])])
