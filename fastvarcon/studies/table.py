"""The table of a study: a CSV with a row for every finished run, from which figures are drawn."""

from __future__ import annotations

import csv
import datetime
import io
import math
import shlex
from pathlib import Path

from fastvarcon.config import Config
from fastvarcon.errors import UserError
from fastvarcon.reporting.scored import read_scored
from fastvarcon.run_folder import RunFolder, run_identity
from fastvarcon.studies.grid import Cell, Study
from fastvarcon.whole_file import write_text

COLUMNS = (
    "study", "run", "series", "point", "value", "seed", "settings", "linear_top1", "knn_top1", "few_shot_logistic",
    "few_shot_mean", "final_loss", "epochs", "global_batch", "num_train", "num_val", "num_classes", "seconds",
    "views_per_second", "data_wait_fraction", "backend", "world_size", "machine", "versions", "date", "command",
    "eval_commands",
)  # fmt: skip


COUNTS = {"num_train", "num_val", "num_classes"}


def is_trained(cell: Cell) -> bool:
    """The run folder holds the end of this very training."""
    folder = RunFolder(cell.config.out)
    summary = folder.read_summary()
    if summary is None or not folder.config.exists():
        return False
    return run_identity(Config.load(folder.config)) == run_identity(cell.config)


def missing_scores(cell: Cell, study: Study) -> list[str]:
    """Evaluations that the run still lacks, or has of other images or of an earlier encoder."""
    out, data = cell.config.out, cell.config.data
    scored = read_scored(out)
    found = scored.scores
    return [
        name
        for name in study.evaluations
        if name not in found
        or name in scored.stale | scored.incomplete
        or (name == "linear" and not found[name].keys() >= COUNTS)
        or (found[name].get("data.train"), found[name].get("data.val")) != (str(data.train), str(data.val))
    ]


def row(cell: Cell, study: Study, command: list[str]) -> dict[str, str]:
    """What the folder of a finished and scored run says."""
    out, flat = cell.config.out, cell.config.flat()
    folder = RunFolder(out)
    summary, scores = folder.read_summary(), read_scored(out).scores
    assert summary is not None
    wrote = datetime.datetime.fromtimestamp(folder.summary.stat().st_mtime)
    linear = scores["linear"]
    few_shot = {
        column: " ".join(
            f"{one['shots']}:{one['mean']:.6g}" for one in scores["few-shot"]["rows"] if one["method"] == m
        )
        for column, m in (("few_shot_logistic", "logistic regression"), ("few_shot_mean", "nearest class mean"))
        if study.shots
    }
    values = {
        **{name: summary[name] for name in COLUMNS if name in summary},
        **{name: linear[name] for name in COUNTS},
        "study": study.name,
        "run": cell.name,
        "series": cell.series,
        "point": cell.point,
        "value": "" if study.axis is None else flat[study.axis.key],
        "seed": cell.seed,
        "settings": " ".join(f"{key}={value}" for key, value in cell.settings.items()),
        "linear_top1": linear["top1"],
        "knn_top1": scores["knn"]["top1"],
        **few_shot,
        "machine": summary["device_name"],
        "versions": " ".join(f"{name}={version}" for name, version in summary["versions"].items()),
        "date": wrote.date().isoformat(),
        "command": shlex.join(command),
        "eval_commands": "; ".join(scores[name]["command"] for name in study.evaluations),
    }
    return {name: _text(values.get(name, "")) for name in COLUMNS}


def _text(value: object) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def write_table(rows: list[dict[str, str]], path: Path) -> None:
    """Whole or not at all."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())


def read_table(path: Path, study: Study) -> list[dict[str, str]]:
    """Rows of this study, none where there is no file. Raises UserError for a file that is no such table."""
    if not path.exists():
        return []
    try:
        with open(path, newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            rows = list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path} cannot be read as CSV ({error})") from None
    if tuple(reader.fieldnames or ()) != COLUMNS:
        raise UserError(f"{path} is not the table of a study: move it away")
    for number, row in enumerate(rows, 2):
        if row["study"] == study.name and not _is_row(row, study):
            raise UserError(f"{path} line {number} is not a row of the study {study.name}: remove it")
    return [row for row in rows if row["study"] == study.name]


def _is_row(row: dict, study: Study) -> bool:
    """A figure can be drawn of it."""
    try:
        numbers = [float(row[name]) for name in ("linear_top1", "knn_top1")] + [float(int(row["seed"]))]
        numbers += [float(row["value"])] if study.axis is not None else []
        for name in ("few_shot_logistic", "few_shot_mean") if study.shots else ():
            numbers += [float(part) for pair in row[name].split() for part in pair.split(":", 1)]
        return all(map(math.isfinite, numbers)) and None not in row and None not in row.values()
    except (TypeError, ValueError, AttributeError):
        return False
