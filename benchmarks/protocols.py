"""What the two protocols of the linear probe cost and give on a trained run; rows go to results/evaluation.csv.

    OMP_NUM_THREADS=1 fastvarcon eval linear RUN
    OMP_NUM_THREADS=1 fastvarcon eval linear RUN --protocol paper
    python benchmarks/protocols.py RUN [--out evaluation.csv]

The times are those that both commands wrote beside their scores, from the opening of the files to the last score. One
thread each keeps them comparable on a machine that does something else too.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from evaluation import DEFAULT_OUT, record

from fastvarcon.run_folder import RunFolder

NAMES = {"protocol fast": "linear", "protocol paper": "linear-paper"}


def row(run: Path, task: str) -> dict[str, str | int]:
    figures = json.loads((run / "eval" / f"{NAMES[task]}.json").read_text())
    made_by = RunFolder(run).read_summary()["command"]
    return {
        "task": task,
        "rows": figures["num_train"],
        "queries": figures["num_val"],
        "dim": figures["feature_dim"],
        "classes": figures["num_classes"],
        "seconds": f"{figures['seconds']:.1f}",
        "top1": f"{figures['top1']:.4f}",
        "detail": f"std {figures['top1_std']:.6f}, {figures['epochs']} epochs; {made_by}",
        "command": figures["command"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--out", type=Path, default=DEFAULT_OUT)
    args = parser.parse_args()
    fast, paper = (row(args.run, task) for task in NAMES)
    for one in (fast, paper):
        record(args.out, one)
    times = float(paper["seconds"]) / float(fast["seconds"])
    print(f"fast {fast['top1']} in {fast['seconds']} s, paper {paper['top1']} in {paper['seconds']} s: {times:.1f}x")


if __name__ == "__main__":
    main()
