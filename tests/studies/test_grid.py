"""Grids of studies, and the commands that their runs are."""

import dataclasses
import runpy
from pathlib import Path

import pytest
import tyro

from fastvarcon.commands.settings import recipe_defaults
from fastvarcon.config import Config
from fastvarcon.errors import UserError
from fastvarcon.run_folder import run_identity
from fastvarcon.studies import Axis, Point, Study
from fastvarcon.studies.commands import executable, flags, training
from fastvarcon.studies.grid import cells, varied

ROOT = Path(__file__).parents[2]
STUDIES = {path.stem: path for path in sorted((ROOT / "recipes" / "studies").glob("*.py"))}
CIFAR = ROOT / "recipes" / "cifar10.py"
GRID = Study(
    name="batch",
    axis=Axis("train.global_batch", "images"),
    series=(Point("VarCon", {"loss.name": "varcon"}), Point("SupCon", {"loss.name": "supcon"})),
    points=(Point("x0.5", times={"train.global_batch": 0.5, "train.lr": 0.5}), Point("x1")),
)


@pytest.fixture
def base():
    config = recipe_defaults(CIFAR)
    data = dataclasses.replace(config.data, train=Path("train.beton"), val=Path("val.beton"))
    return dataclasses.replace(config, data=data, out=Path("runs/batch"))


def test_every_point_once_then_the_next_seed(base):
    found = cells(GRID, base, seeds=2)
    assert [cell.name for cell in found[:5]] == [
        "varcon-x0.5-seed0", "varcon-x1-seed0", "supcon-x0.5-seed0", "supcon-x1-seed0", "varcon-x0.5-seed1",
    ]  # fmt: skip
    half = found[2]
    assert (half.config.loss.name, half.config.train.global_batch, half.config.train.lr) == ("supcon", 256, 0.05)
    assert half.settings == {"loss.name": "supcon", "train.global_batch": 256, "train.lr": 0.05}
    assert half.config.out == Path("runs/batch/supcon-x0.5-seed0") and len(found) == 8


def test_only_some(base):
    assert [cell.name for cell in cells(GRID, base, 1, ("SupCon",))] == ["supcon-x0.5-seed0", "supcon-x1-seed0"]
    assert [cell.name for cell in cells(GRID, base, 1, ("SupCon", "x1"))] == ["supcon-x1-seed0"]
    with pytest.raises(UserError, match=r"--only 'x3' is no point of batch: choose from SupCon, VarCon, x0\.5, x1"):
        cells(GRID, base, 1, ("x3",))


def test_a_point_that_cannot_be_is_said_before_any_run(base):
    wide = Study("eps", points=(Point("0.2", {"loss.eps": 0.2}),))
    with pytest.raises(UserError, match=r"eps, 0\.2-seed0: --loss\.tau1 \(0\.1\) must be larger than --loss\.eps"):
        cells(wide, base, 1)


@pytest.mark.parametrize("name", STUDIES)
def test_every_study_has_runs_of_its_own_on_every_recipe(name, base):
    study = runpy.run_path(str(STUDIES[name]))["STUDY"]
    assert study.name == name
    for recipe in sorted((ROOT / "recipes").glob("*.py")):
        defaults = runpy.run_path(str(recipe)).get("DEFAULTS")
        if not isinstance(defaults, Config):
            continue
        found = cells(study, dataclasses.replace(defaults, data=base.data), seeds=2)
        assert len({cell.name for cell in found}) == len(found) == 2 * len(study.points) * len(study.series)
        assert len({run_identity(cell.config) for cell in found}) == len(found), recipe


@pytest.mark.parametrize("name", STUDIES)
def test_a_command_makes_the_settings_of_its_run(name, base):
    """The recipe's own parser reads them back."""
    study, defaults = runpy.run_path(str(STUDIES[name]))["STUDY"], recipe_defaults(CIFAR)
    for cell in cells(study, base, seeds=1):
        assert tyro.cli(Config, default=defaults, args=flags(cell.config, defaults)) == cell.config


def test_what_a_study_sets_itself():
    assert varied(GRID) == {"loss.name"}
    assert varied(runpy.run_path(str(STUDIES["detach"]))["STUDY"]) == {
        "loss.name", "loss.detach_centroids", "loss.detach_target",
    }  # fmt: skip


def test_commands_are_as_one_would_type_them(base, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    defaults, [cell, *_] = recipe_defaults(CIFAR), cells(GRID, dataclasses.replace(base, out=tmp_path / "out"), 1)
    words = training(cell, Path("recipes/cifar10.py"), defaults, 1)
    assert words == [
        "python", "recipes/cifar10.py", "--data.train", "train.beton", "--data.val", "val.beton",
        "--train.global-batch", "256", "--train.lr", "0.05", "--out", "out/varcon-x0.5-seed0",
    ]  # fmt: skip
    many = training(cell, Path("recipes/cifar10.py"), defaults, 4)
    assert many[:4] == ["accelerate", "launch", "--num_processes", "4"] and many[-11:] == words[1:]
    assert executable(["fastvarcon", "eval"])[1:] == ["-m", "fastvarcon.cli", "eval"]
