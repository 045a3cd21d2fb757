"""Training and held-out images of a score: the same ones, some of the same, some of the classes, gone or exchanged."""

import json

import numpy as np
import pytest

from fastvarcon.config import Config, DataConfig, ModelConfig
from fastvarcon.data.backends import open_backend
from fastvarcon.data.beton import RAW
from fastvarcon.data.records import content_hash
from fastvarcon.data_prep.beton_writer import BetonWriter
from fastvarcon.data_prep.record import Record
from fastvarcon.models.encoders import build_encoder
from fastvarcon.run_folder import RunFolder
from fastvarcon.training.checkpoint import save_tensors

CLASSES = ["ant", "bee", "cat"]
SIZES = ("--data.size", "8", "--data.eval-resize", "8")


def write(path, seeds, names, classes=CLASSES):
    """One raw image of 8 x 8 pixels for each seed, of the class that `names` gives it, coloured by its class."""
    with BetonWriter(path, len(seeds), list(classes)) as writer:
        for seed, name in zip(seeds, names, strict=True):
            pixels = np.random.default_rng(seed).integers(0, 90, (8, 8, 3), dtype=np.uint8)
            pixels[..., CLASSES.index(name) % 3] += 60
            payload = pixels.tobytes()
            writer.add(Record(payload, RAW, 8, 8), classes.index(name), content_hash(payload))
    return path


@pytest.fixture
def pair(tmp_path):
    train = write(tmp_path / "train.beton", range(60), CLASSES * 20)
    return train, write(tmp_path / "val.beton", range(100, 124), CLASSES * 8)


@pytest.fixture
def score(fastvarcon, encoder_file, tmp_path):
    def run(name, train, val, *flags, code=0):
        args = ("eval", name, encoder_file, "--data.train", train, "--data.val", val, "--out", tmp_path / "out", *SIZES)
        said = fastvarcon(*args, *flags, code=code)
        return said if code else json.loads((tmp_path / "out" / "eval" / f"{name}.json").read_text())

    return run


@pytest.mark.parametrize("name", ["linear", "knn", "few-shot", "corruption", "calibration", "geometry"])
def test_every_score_refuses_the_training_images_as_held_out_ones(score, pair, tmp_path, name):
    train, _ = pair
    copy = tmp_path / "copy.beton"
    copy.write_bytes(train.read_bytes())
    for val in (train, copy):
        said = score(name, train, val, code=2)
        assert f"the held-out images {val} are the training images {train}: give" in said and "--allow-same" in said


def test_pairs_of_transfer_are_looked_at_too(fastvarcon, encoder_file, pair, tmp_path):
    args = ("eval", "transfer", encoder_file, "--datasets", *pair, pair[0], pair[0], "--out", tmp_path / "out", *SIZES)
    assert "are the training images" in fastvarcon(*args, code=2)


def test_folders_are_compared_without_hashes(score, image_folder, tmp_path):
    (tmp_path / "link").symlink_to(image_folder)
    for val in (image_folder, tmp_path / "link"):
        assert "are the training images" in score("knn", image_folder, val, "--data.backend", "folder", code=2)


def test_what_is_allowed_is_said_and_kept(score, pair):
    result = score("knn", pair[0], pair[0], "--allow-same", "--k", "1")
    assert result["top1"] == 1 and "no score of theirs says anything" in result["warnings"][0]


def test_images_that_are_in_both_sets_are_counted(score, pair, tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr("fastvarcon.evaluation.job.warn", said.append)
    val = write(tmp_path / "mixed.beton", [*range(100, 118), *range(6)], CLASSES * 8)
    result = score("knn", pair[0], val, "--k", "1")
    assert result["warnings"] == [
        f"6 of the 24 held-out images of {val} are also training images of {pair[0]}: they flatter every score"
    ]
    assert said == result["warnings"]
    assert "warnings" not in score("knn", *pair, "--k", "1")


def test_held_out_classes_are_matched_by_name(score, pair, tmp_path):
    """The same images under another numbering, without a class, or with one that has no images, score the same."""
    seeds, names = range(200, 216), ["cat", "ant"] * 8
    expected = score("knn", pair[0], write(tmp_path / "a.beton", seeds, names), "--k", "5")
    assert expected["warnings"] == ["1 of 3 classes has no held-out images (bee)"]
    for classes in (["cat", "ant"], ["cat", "bee", "ant"]):
        found = score("knn", pair[0], write(tmp_path / "b.beton", seeds, names, classes), "--k", "5")
        same = ("top1", "top1_by_k", "nearest_class_mean_top1", "num_classes", "warnings")
        assert {key: found[key] for key in same} == {key: expected[key] for key in same} and found["top1"] > 0.5
    names = ["cat", "ant", "bee"]
    write(tmp_path / "b.beton", range(3), names, [*names, "dog", "eel"])
    said = score("knn", pair[0], tmp_path / "b.beton", code=2)
    assert "2 of the 5 held-out ones are not among the 3 of training (dog, eel)" in said


@pytest.mark.parametrize("name", ["linear", "few-shot", "geometry", "clustering"])
def test_a_class_without_images_is_no_obstacle(score, pair, tmp_path, name):
    """Neither on the side of training nor among the held-out ones, where per-class figures leave it out."""
    classes = [*CLASSES, "rare"]
    train = write(tmp_path / "t.beton", range(60), CLASSES * 20, classes)
    val = write(tmp_path / "v.beton", range(100, 118), ["cat", "ant", "bee"] * 6, ["cat", "ant", "rare", "bee"])
    flags = {"few-shot": ("--shots", "5", "--draws", "2"), "geometry": ("--shots", "5", "--draws", "1")}.get(name, ())
    text = json.dumps(score(name, train, val, *flags))
    assert "NaN" not in text and "Infinity" not in text


@pytest.fixture
def run(tmp_path, pair):
    """A run folder as a training leaves it, of data that can go."""
    folder = RunFolder(tmp_path / "run")
    folder.path.mkdir()
    data = DataConfig(train=pair[0], val=pair[1], size=8, eval_resize=8)
    images = open_backend("cpu", pair[0])
    folder.begin(Config(data, ModelConfig("resnet18", width=1 / 16, small_images=True)), images.content.identity)
    images.close()
    save_tensors(folder.encoder, build_encoder("resnet18", width=1 / 16, small_images=True).state_dict())
    return folder.path


def test_a_run_whose_images_have_moved(fastvarcon, run, pair, tmp_path):
    fastvarcon("eval", "knn", run, "--k", "1")
    for which, path in zip(("train", "val"), pair, strict=True):
        path.rename(tmp_path / "moved.beton")
        said = fastvarcon("eval", "knn", run, code=2)
        assert f"{path}, the --data.{which} of run, is not there any more" in said and f"--data.{which} PATH" in said
        fastvarcon("eval", "knn", run, f"--data.{which}", tmp_path / "moved.beton", "--k", "1")
        assert "warnings" not in json.loads((run / "eval" / "knn.json").read_text())
        (tmp_path / "moved.beton").rename(path)


def test_other_images_than_the_run_was_trained_on_are_said(fastvarcon, run, pair):
    write(pair[0], range(300, 360), CLASSES * 20)
    fastvarcon("eval", "knn", run, "--k", "1")
    [warning] = json.loads((run / "eval" / "knn.json").read_text())["warnings"]
    assert warning == (
        f"{pair[0]} does not hold the images that {run} was trained on (other images, by their record hashes)"
    )
