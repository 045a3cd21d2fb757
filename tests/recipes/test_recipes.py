"""Every recipe says what it needs and gives, shows its flags, has settings that hold, and trains."""

import ast
import dataclasses
import math
import re
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest

from fastvarcon.commands.settings import recipe_defaults
from fastvarcon.config import Config
from fastvarcon.data.beton import RAW
from fastvarcon.data.records import content_hash
from fastvarcon.data_prep.beton_writer import BetonWriter
from fastvarcon.data_prep.record import Record
from fastvarcon.run_folder import read_metrics
from fastvarcon.training.resolution import epoch_sizes
from fastvarcon.training.trainer import train

FOLDER = Path(__file__).parents[2] / "recipes"
PROGRAMS = sorted(FOLDER.glob("*.py"))
RECIPES = [path for path in PROGRAMS if "DEFAULTS = " in path.read_text()]
FIELDS = ["Data", "Command", "Hardware", "Expected", "Wall time", "Data wait"]


def docstring(path: Path) -> str:
    return ast.get_docstring(ast.parse(path.read_text()))


@pytest.mark.parametrize("path", PROGRAMS, ids=lambda path: path.stem)
def test_docstring_says_what_it_needs_and_gives(path):
    text = docstring(path)
    fields = dict(re.findall(rf"^({'|'.join(FIELDS)}):\s+(\S.*)$", text, re.M))
    assert list(fields) == FIELDS
    assert f"recipes/{path.name}" in fields["Command"]
    assert "not measured yet" in fields["Expected"] or re.search(r"benchmarks/results|seed", text)


@pytest.mark.parametrize("path", PROGRAMS, ids=lambda path: path.stem)
def test_help_has_the_flags_that_the_docstring_names(path, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", [path.name, "--help"])
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(path), run_name="__main__")
    said = capsys.readouterr().out
    assert end.value.code == 0
    _, head, flags = said.partition(" options ")  # the docstring stands before it
    named = set(re.findall(r"--(?:data|model|loss|train|sampling)\.[a-z-]+|--out", docstring(path)))
    assert head and named and all(flag in flags for flag in named)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_settings_hold(path):
    config = recipe_defaults(path)
    config.data.train = Path("train.beton")
    config.validate()
    assert config.out == Path("runs") / path.stem
    for schedule in re.findall(r"--train.resolution (\S+)", docstring(path)):
        assert len(epoch_sizes(schedule, config.train.epochs, config.data.size)) == config.train.epochs


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    """Sixteen images of three classes, 40 px."""
    path, rng = tmp_path_factory.mktemp("data") / "tiny.beton", np.random.default_rng(0)
    with BetonWriter(path, 16, ["ant", "bee", "cat"]) as writer:
        for index in range(16):
            pixels = rng.integers(0, 256, (40, 40, 3), dtype=np.uint8).tobytes()
            writer.add(Record(pixels, RAW, 40, 40), index % 3, content_hash(pixels))
    return path


def narrowed(config: Config, images: Path, out: Path) -> Config:
    """The recipe on a small network, two steps long."""
    model, ghost = config.model, config.train.batch_norm == "ghost"
    return dataclasses.replace(
        config,
        data=dataclasses.replace(config.data, train=images, val=None, size=32, eval_resize=32, workers=1),
        model=dataclasses.replace(model, **({"encoder": "timm/test_vit"} if model.is_timm else {"width": 1 / 16})),
        train=dataclasses.replace(
            config.train,
            epochs=1,
            global_batch=8,
            bn_group=4 if ghost else 0,
            warmup_epochs=0,
            compile="off",
            device="cpu",
            threads=1,
            log_every=1,
        ),
        out=out,
    )


@pytest.mark.parametrize("path", [p for p in RECIPES if p.stem != "digits"], ids=lambda path: path.stem)
def test_two_steps(path, images, tmp_path):
    config = recipe_defaults(path)
    if config.model.is_timm:
        pytest.importorskip("timm", reason="timm is not installed")
    train(narrowed(config, images, tmp_path / "run"))
    rows = [row for row in read_metrics(tmp_path / "run" / "metrics.jsonl") if row["kind"] == "step"]
    assert [row["step"] for row in rows] == [1, 2] and all(math.isfinite(row["loss"]) for row in rows)
    assert (tmp_path / "run" / "encoder.safetensors").exists()


def test_imagenet100_is_a_hundred_classes_of_imagenet():
    names = (FOLDER / "imagenet100.txt").read_text().split()
    assert len(set(names)) == len(names) == 100 and all(re.fullmatch(r"n\d{8}", name) for name in names)
