"""The table of a study: a CSV with a row for every finished run, from which figures are drawn."""

from __future__ import annotations

import csv
import datetime
import io
import os
import shlex
from pathlib import Path

from fastvarcon.config import Config
from fastvarcon.errors import UserError
from fastvarcon.reporting.tables import results, stale
from fastvarcon.run_folder import RunFolder, run_identity
from fastvarcon.studies.grid import Cell, Study

COLUMNS = (
    "study", "run", "series", "point", "value", "seed", "settings", "linear_top1", "knn_top1", "few_shot_logistic",
    "few_shot_mean", "final_loss", "epochs", "global_batch", "num_train", "num_val", "num_classes", "seconds",
    "views_per_second", "data_wait_fraction", "backend", "world_size", "machine", "versions", "date", "command",
    "eval_commands",
)  # fmt: skip


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
    found = results(out)
    return [
        name
        for name in study.evaluations
        if name not in found
        or stale(out, found[name])
        or (found[name].get("data.train"), found[name].get("data.val")) != (str(data.train), str(data.val))
    ]


def row(cell: Cell, study: Study, command: list[str]) -> dict[str, str]:
    """What the folder of a finished and scored run says."""
    out, flat = cell.config.out, cell.config.flat()
    folder = RunFolder(out)
    summary, scores = folder.read_summary(), results(out)
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
        **{name: linear[name] for name in ("num_train", "num_val", "num_classes")},
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
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f"{path.name}.{os.getpid()}.partial")
    aside.write_text(text.getvalue(), encoding="utf-8")
    os.replace(aside, path)


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
    return [row for row in rows if row["study"] == study.name]
