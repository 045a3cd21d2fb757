"""What version 0.1.0 wrote opens, resumes and scores as it did: data files, run folders, checkpoints, an export.

v0.1.0.tar.xz holds, of 40 and 20 scanned digits at 8 px: train.beton, val.beton and `tars`, as `convert` wrote them;
`half`, a run stopped in its third epoch of six, and half-expected.jsonl, the metrics of the same run when it was not
stopped; `done`, a finished run with its scores; `export`, its encoder, and features.npy, what that made of the images
of val.beton in [0, 1], [20, 32] float32.
"""

from __future__ import annotations

import json
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch

from fastvarcon import load_encoder
from fastvarcon.config import Config
from fastvarcon.data.records import open_records


@pytest.fixture(scope="module")
def earlier(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("earlier")
    with tarfile.open(Path(__file__).with_name("v0.1.0.tar.xz")) as tar:
        tar.extractall(root, filter="data")
    return root


def images(root: Path) -> torch.Tensor:
    records = open_records(root / "val.beton")
    pixels = [np.frombuffer(bytes(records.record(i)), np.uint8).reshape(8, 8, 3) for i in range(len(records))]
    return torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2) / 255


def test_data_files_open_with_their_classes(earlier):
    raw, jpegs = open_records(earlier / "train.beton"), open_records(earlier / "tars")
    assert raw.classes == jpegs.classes == [str(digit) for digit in range(10)]
    assert raw.labels.tolist() == jpegs.labels.tolist() == np.repeat(np.arange(10), 4).tolist()


@pytest.mark.parametrize("what", ["done", "export"])
def test_encoders_give_the_features_of_then(earlier, what):
    with torch.no_grad():
        features = load_encoder(earlier / what)(images(earlier))
    np.testing.assert_allclose(features, np.load(earlier / "features.npy"), rtol=1e-4, atol=1e-4)


def test_half_a_run_resumes_and_ends_as_if_it_had_not_been_stopped(earlier, tmp_path, monkeypatch):
    from fastvarcon.training.trainer import train

    monkeypatch.chdir(earlier)
    shutil.copytree(earlier / "half", tmp_path / "half")
    config = Config.load(tmp_path / "half" / "config.json")
    config.out = tmp_path / "half"
    train(config)
    rows, expected = (
        [json.loads(line) for line in path.read_text().splitlines()]
        for path in (tmp_path / "half" / "metrics.jsonl", earlier / "half-expected.jsonl")
    )
    rows, expected = ([row for row in rows if row["kind"] == "epoch"] for rows in (rows, expected))
    assert [row["step"] for row in rows] == [row["step"] for row in expected] == [2, 4, 6, 8, 10, 12]
    np.testing.assert_allclose([row["loss"] for row in rows], [row["loss"] for row in expected], rtol=1e-3)


def test_scores_of_then_are_reported(earlier, tmp_path):
    from fastvarcon.reporting.scored import read_scored
    from fastvarcon.reporting.tables import score_rows

    shutil.copytree(earlier / "done", tmp_path / "done")
    found = {score.what: score.top1 for score in score_rows(read_scored(tmp_path / "done"))}
    for name in ("linear", "knn"):
        then = json.loads((earlier / "done" / "eval" / f"{name}.json").read_text())
        assert then["top1"] in found.values() and not any("EARLIER" in what for what in found)
