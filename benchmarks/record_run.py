"""Append the scores of run folders to benchmarks/results/runs.csv: the source of every training figure in the README.

    python benchmarks/record_run.py RUN [RUN ...] [--out runs.csv]

A row says what was run (command), on what (machine, versions), what came out (scores, with the number of images and the
command of each) and when.
"""

from __future__ import annotations

import argparse
import csv
import datetime
import json
import sys
from pathlib import Path

from fastvarcon.reporting.scored import read_scored

DEFAULT_OUT = Path(__file__).parent / "results" / "runs.csv"
COLUMNS = (
    "date", "run", "command", "machine", "world_size", "versions", "epochs", "global_batch", "seconds",
    "views_per_second", "data_wait_fraction", "final_loss", "num_train", "num_val", "num_classes", "linear_top1",
    "knn_top1", "pixel_knn_top1", "eval_commands",
)  # fmt: skip


def row(run: Path) -> dict[str, object]:
    summary = json.loads((run / "summary.json").read_text())
    scores = {path.stem: json.loads(path.read_text()) for path in sorted((run / "eval").glob("*.json"))}
    some_score = next(score for score in scores.values() if "num_train" in score)
    return {
        **{name: summary[name] for name in COLUMNS if name in summary},
        "date": datetime.date.today().isoformat(),
        "run": run.name,
        "machine": summary["device_name"],
        "versions": " ".join(f"{name}={version}" for name, version in summary["versions"].items()),
        **{name: some_score[name] for name in ("num_train", "num_val", "num_classes")},
        "linear_top1": scores.get("linear", {}).get("top1"),
        "knn_top1": scores.get("knn", {}).get("top1"),
        "pixel_knn_top1": scores.get("knn-pixels", {}).get("top1"),
        "eval_commands": "; ".join(score["command"] for score in scores.values()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--out", type=Path, default=DEFAULT_OUT)
    args = parser.parse_args()
    for run in args.runs:
        if not (run / "summary.json").exists() or not list((run / "eval").glob("*.json")):
            sys.exit(f"error: {run} is not a run folder with scores: train it and run `fastvarcon eval` first")
        scored = read_scored(run)
        if scored.stale or scored.problems:
            sys.exit(
                f"error: {run}: {', '.join([*scored.problems, *scored.stale])} of an earlier encoder: run eval again"
            )
    rows = [row(run) for run in args.runs]
    new = not args.out.exists()
    with open(args.out, "a", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        if new:
            writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
