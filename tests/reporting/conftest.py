"""A run folder as a training and two evaluations leave it, and `fastvarcon` called in this process."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from fastvarcon import cli
from fastvarcon.config import Config, DataConfig, ModelConfig

TINY = ModelConfig("resnet18", width=1 / 16, small_images=True, head_dim=8)
COMMON = {"features": "encoder", "title": "x", "encoder_sha256": "0", "protocol": "p", "seed": 0, "seconds": 1.0}
KNN = {
    "name": "knn", "command": "fastvarcon eval knn run", "num_val": 360, "top1": 0.625, "k": 20, "temperature": 0.07,
    "top1_by_k": {"20": 0.625}, "weighted_top1_by_k": {"20": 0.6}, "nearest_class_mean_top1": 0.5,
}  # fmt: skip
CLUSTERING = {
    "name": "clustering", "command": "fastvarcon eval clustering run", "num_val": 360, "superclasses": None,
    **dict.fromkeys(("ari", "nmi", "v_measure", "homogeneity", "completeness", "purity"), 0.5),
    "class_tree": [[0, 1, 1.0, 2], [2, 3, 2.0, 3]], "class_names": ["a$b_{c}", "50$ ^2", "\x1b[31m\n\ud800"],
}  # fmt: skip
SUMMARY = {
    "final_loss": 1.5, "epochs": 2, "seconds": 9.5, "views_per_second": 100.0, "data_wait_fraction": 0.1,
    "world_size": 1, "global_batch": 128, "backend": "cpu", "device_name": "a CPU", "versions": {"torch": "2"},
    "command": "train.py",
}  # fmt: skip


def metrics() -> list[dict]:
    figures = {"loss": 2.5, "kl": 1.0, "nll": 1.5, "tau2": 0.1, "tau2_std": 0.01, "confidence": 0.5, "hit": 0.6}
    steps = [{"kind": "step", "epoch": 0, "step": step, "lr": 0.1, **figures} for step in (1, 2)]
    counts = {"tau2_histogram": [1, 2, 3], "confidence_histogram": [3, 2, 1], "val_knn_top1": 0.5}
    return [*steps, {"kind": "epoch", "epoch": 1, "step": 2, **figures, **counts}]


@pytest.fixture
def run(tmp_path) -> Path:
    run = tmp_path / "run"
    (run / "eval").mkdir(parents=True)
    Config(DataConfig(size=8, eval_resize=8), TINY, out=run).save(run / "config.json")
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in metrics()))
    (run / "summary.json").write_text(json.dumps(SUMMARY))
    for score in (KNN, CLUSTERING):
        (run / "eval" / f"{score['name']}.json").write_text(json.dumps(COMMON | score))
    return run


class Said(NamedTuple):
    out: str
    err: str
    code: int


@pytest.fixture
def command(monkeypatch, capsys):
    """Run a command of `fastvarcon` in this process. An error is one line on stderr, after any warnings."""

    def run(*args) -> Said:
        monkeypatch.setattr(sys, "argv", ["fastvarcon", *map(str, args)])
        capsys.readouterr()
        code = 0
        try:
            cli.main()
        except SystemExit as left:
            code = left.code
        said = Said(*capsys.readouterr(), code)
        errors = [line for line in said.err.splitlines() if not line.startswith("warning: ")]
        assert not code or (len(errors) == 1 and errors[0].startswith("error: ")), said.err
        return said

    return run
