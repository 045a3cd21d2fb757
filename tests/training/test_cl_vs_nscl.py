"""The study of recipes/cl_vs_nscl.py, in small."""

import dataclasses
import json
import runpy
from pathlib import Path

import pytest

from fastvarcon.errors import UserError

RECIPE = runpy.run_path(str(Path(__file__).parents[2] / "recipes" / "cl_vs_nscl.py"))


@pytest.fixture
def study(digits, tmp_path):
    default = RECIPE["Study"]()
    settings = {"epochs": 2, "save_every": 1, "warmup_epochs": 0, "threads": 1, "device": "cpu", "lr": 0.05}
    return dataclasses.replace(
        default,
        data=dataclasses.replace(default.data, train=digits[0]),
        train=dataclasses.replace(default.train, **settings),
        classes=(2, 4),
        out=tmp_path / "study",
    )


def test_study_measures_and_draws(study):
    found = RECIPE["study_all"](study)
    assert [row["classes"] for row in found["gaps"]] == [2, 4]
    assert all(0 < row["last"] < row["bound"] for row in found["gaps"]) and found["gap_slope"] < -0.5
    assert found["loss_correlation"] > 0.9
    assert [row["epoch"] for row in found["geometry"]["nscl"]] == [0, 1, 2]
    assert found["geometry"]["nscl"][0] == found["geometry"]["dcl"][0]  # the same untrained network
    assert json.loads((study.out / "study.json").read_text()) == found and (study.out / "study.png").exists()


def test_what_no_study_can_do(study):
    with pytest.raises(UserError, match=r"must be a multiple of --train\.save-every"):
        RECIPE["study_all"](dataclasses.replace(study, train=dataclasses.replace(study.train, save_every=3)))
    with pytest.raises(UserError, match=r"--classes must lie between 2 and the 10"):
        RECIPE["study_all"](dataclasses.replace(study, classes=(11,)))
