"""The images behind a run: known again at another path, missed when others have their name."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from PIL import Image

from fastvarcon.config import Config, DataConfig, LossConfig, ModelConfig, SamplingConfig, TrainConfig
from fastvarcon.data.backends import open_backend
from fastvarcon.data.beton import RAW
from fastvarcon.data.content import BY_SIZE
from fastvarcon.data.records import content_hash
from fastvarcon.data_prep.beton_writer import BetonWriter
from fastvarcon.data_prep.convert import convert
from fastvarcon.data_prep.encode import EncodeSettings
from fastvarcon.data_prep.record import Record
from fastvarcon.data_prep.sources import open_source
from fastvarcon.errors import UserError
from fastvarcon.run_folder import RunFolder, run_identity
from fastvarcon.training.checkpoint import save_checkpoint
from fastvarcon.training.resume import resume
from fastvarcon.training.trainer import train

LABELS = np.arange(24) % 3
CLASSES = ["cat", "cow", "dog"]


def write(path, seed=0, labels=LABELS, classes=CLASSES):
    """Raw images of 8 x 8 pixels, each of its own colour."""
    path.parent.mkdir(exist_ok=True)
    rng = np.random.default_rng(seed)
    with BetonWriter(path, len(labels), list(classes)) as writer:
        for label in labels:
            payload = bytes(rng.integers(0, 256, 3, dtype=np.uint8)) * 64
            writer.add(Record(payload, RAW, 8, 8), int(label), content_hash(payload))
    return path


def without_hashes(path):
    """As ffcv writes it: our entry in the image field blanked, the labels as class names."""
    content = path.read_bytes()
    path.write_bytes(content.replace(b"FASTVCON", bytes(8), 1))
    return path


def content_of(path, backend="cpu"):
    images = open_backend(backend, path)
    try:
        return images.content
    finally:
        images.close()


@pytest.fixture
def config(tmp_path):
    def make(data, **settings) -> Config:
        values = {"epochs": 1, "global_batch": 8, "warmup_epochs": 0.0, "device": "cpu", "threads": 1, **settings}
        return Config(
            data=DataConfig(train=data, policy="crop", size=8, eval_resize=8, workers=1),
            model=ModelConfig("resnet18", width=0.0625, small_images=True),
            train=TrainConfig(**values),
            out=tmp_path / "run",
        )

    return make


@pytest.fixture
def begun(config, tmp_path):
    """A run folder with a checkpoint of `data`, an identity as its version wrote it."""

    def make(at, data, legacy=False):
        mine, folder = config(at), RunFolder(tmp_path / "run")
        folder.begin(mine, data)
        run = run_identity(mine, data_train=str(at) if legacy else None)
        save_checkpoint(folder.last, {"step": 3, "data": data}, run)
        return folder

    return make


# ---- what is the same -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"seed": 1}, "other images, by their record hashes"),
        ({"labels": (LABELS + 1) % 3}, "other labels"),
        ({"labels": LABELS[:23]}, "23 images, not 24"),
        ({"classes": ["cat", "cow", "fox"]}, "3 classes, not 3: +fox, -dog"),
        ({"classes": ["dog", "cow", "cat"]}, "3 classes, not 3: in another order"),
    ],
)
def test_other_images_under_the_same_name_are_refused_with_what_differs(begun, config, tmp_path, change, what):
    path = write(tmp_path / "d.beton")
    folder = begun(path, content_of(path).identity)
    write(path, **change)
    with pytest.raises(UserError, match=rf"d\.beton has changed since .*run was begun \(.*{what.replace('+', '.')}"):
        resume(folder, config(path), content_of(path), 24)


def test_the_same_images_at_another_path_resume_and_say_so(begun, config, tmp_path):
    old, new = write(tmp_path / "job1" / "d.beton"), write(tmp_path / "job2" / "d.beton")
    folder = begun(old, content_of(old).identity)
    folder.check(config(new))
    found = resume(folder, config(new), content_of(new), 24)
    assert found.state["step"] == 3 and not found.warnings
    assert found.notes == [f"{new} holds the same images as {old}, with which the run was begun (by record hashes)"]
    assert resume(folder, config(old), content_of(old), 24).notes == []
    write(new, seed=1)
    with pytest.raises(UserError, match=r"job2/d\.beton does not hold the images that .*run was begun with, .*job1"):
        resume(folder, config(new), content_of(new), 24)


def test_a_run_of_an_earlier_version_resumes_at_its_path_alone(begun, config, tmp_path):
    old, new = write(tmp_path / "job1" / "d.beton"), write(tmp_path / "job2" / "d.beton")
    folder = begun(old, {"images": 24, "classes": CLASSES}, legacy=True)
    [note] = resume(folder, config(old), content_of(old), 24).notes
    assert "it kept no hash of the images" in note
    with pytest.raises(UserError, match=r"kept no hash of the images.*give the old path"):
        resume(folder, config(new), content_of(new), 24)
    folder = begun(old, {"images": 32, "classes": CLASSES}, legacy=True)  # --sampling.per-class repeats some of them
    assert resume(folder, config(old), content_of(old), 32).notes == [note]
    folder = begun(old, {"images": 24, "classes": CLASSES}, legacy=True)
    write(old, labels=LABELS[:20])
    with pytest.raises(UserError, match=r"has changed since .*20 images, not 24"):
        resume(folder, config(old), content_of(old), 20)


def test_content_does_not_depend_on_how_records_are_stored_or_read(tmp_path, image_folder):
    """.beton, tar shards and backends that keep the pixels: the same records, the same content."""
    for name, format in (("a.beton", "beton"), ("tar", "tar")):
        source = open_source(image_folder)
        convert(source, tmp_path / name, EncodeSettings(), workers=1, on_error="stop", format=format)
    one, tar = content_of(tmp_path / "a.beton"), content_of(tmp_path / "tar")
    assert one == tar == content_of(tmp_path / "a.beton", "resident") and one.number == tar.number
    assert np.array_equal(one.hashes, tar.hashes) and one.images == 15


def test_sources_without_hashes_are_compared_by_size_and_sample(tmp_path, image_folder):
    path = without_hashes(write(tmp_path / "a.beton"))
    other = without_hashes(write(tmp_path / "b.beton", seed=1))  # the same sizes and labels, as two halves of CIFAR
    one, two = content_of(path), content_of(other)
    assert one.hashes is None and one.basis == BY_SIZE
    assert one == content_of(path.rename(tmp_path / "c.beton")) and one != two
    assert two.differences(one.identity) == [f"other images, by their {BY_SIZE}"]
    folder = content_of(image_folder, "folder")
    moved = image_folder.rename(tmp_path / "moved")
    assert folder == content_of(moved, "folder")
    Image.new("RGB", (5, 5)).save(moved / "ant" / "0.jpg")
    assert folder != content_of(moved, "folder")


def test_a_million_records_are_compared_in_well_under_a_gigabyte():
    """By what is stored of them, without a look at the records."""
    import tracemalloc

    from fastvarcon.data.content import content_of as of_records

    class Records:
        classes, labels = ["a", "b"], np.zeros(1_000_000, dtype=np.int64)
        hashes = np.arange(1_000_000, dtype=np.uint64)

    tracemalloc.start()
    content = of_records(Records())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert content.images == 1_000_000 and peak < 50e6


# ---- in a training --------------------------------------------------------------------------------------------------


def test_a_training_follows_its_images(config, tmp_path, capsys):
    old, new = write(tmp_path / "job1" / "d.beton"), tmp_path / "job2" / "d.beton"
    train(config(old))
    new.parent.mkdir()
    old.rename(new)
    capsys.readouterr()
    assert train(config(new))["epochs"] == 1
    said = capsys.readouterr().out
    assert "holds the same images as" in said and "nothing left to train" in said
    written = json.loads((tmp_path / "run" / "config.json").read_text())
    assert written["data.train"] == str(new)
    write(new, seed=1)
    before = (tmp_path / "run" / "config.json").read_bytes()
    with pytest.raises(UserError, match="has changed since"):
        train(config(new))
    assert (tmp_path / "run" / "config.json").read_bytes() == before


def test_held_out_images_that_are_the_training_images(config, tmp_path, capsys):
    path, copy = write(tmp_path / "d.beton"), write(tmp_path / "copy.beton")
    for val in (path, copy):
        mine = config(path)
        mine.data.val = val
        with pytest.raises(UserError, match=r"are the training images .*d\.beton: give .* or --data\.allow-same"):
            train(mine)
        assert not mine.out.exists()
    mine.data.allow_same = True
    train(mine)
    assert "warning: the held-out images" in capsys.readouterr().out
    train(dataclasses.replace(mine, data=dataclasses.replace(mine.data, val=write(tmp_path / "v.beton", seed=1))))


def test_held_out_images_of_some_classes_in_another_order(config, tmp_path, capsys):
    """Labels are matched by name: what training calls 2, the held-out file calls 0."""
    from fastvarcon.training.data import RunData
    from fastvarcon.training.distributed import make_accelerator, own_accelerate_state

    path = write(tmp_path / "d.beton")
    mine = config(path)
    mine.data.val = write(tmp_path / "v.beton", seed=1, labels=[0, 1, 0, 1], classes=["dog", "cat"])
    with own_accelerate_state(), RunData(mine, make_accelerator(mine.train)) as data:
        labels = torch.cat([labels for _, labels, _ in data.val])
        assert labels.tolist() == [2, 0, 2, 0] and data.notes == ["1 of 3 classes has no held-out images (cow)"]
    mine.data.val = write(tmp_path / "v.beton", seed=1, labels=[0, 1], classes=["dog", "fox"])
    with pytest.raises(UserError, match=r"different classes: 1 of the 2 held-out ones .* \(fox\)"):
        train(mine)


# ---- batches of one class -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["varcon", "sincere", "nscl", "hscl", "clop"])
def test_losses_that_need_another_class_are_refused_where_no_batch_has_one(config, tmp_path, name):
    base = "nscl" if name == "clop" else "simclr"
    mine = config(write(tmp_path / "d.beton", labels=np.sort(LABELS)), global_batch=8)
    mine.loss = LossConfig(name, clop_base=base)
    mine.sampling = SamplingConfig(per_class=8)
    with pytest.raises(UserError, match=f"--loss.name {name} needs several classes in a batch: --sampling.per-class"):
        train(mine)
    mine.sampling = SamplingConfig()
    mine.train.global_batch = 1
    with pytest.raises(UserError, match=r"--train\.global-batch must be 2 or more"):
        train(mine)
    mine.train.global_batch = 2
    mine.data.train = write(tmp_path / "e.beton", labels=[1] * 24)
    with pytest.raises(UserError, match="has images of a single class"):
        train(mine)
    assert not mine.out.exists()


def test_batches_that_happen_to_have_one_class_are_counted(config, tmp_path, capsys, monkeypatch):
    from fastvarcon.training import data
    from fastvarcon.training.data import one_class_batches

    assert one_class_batches(np.array([0, 0, 1, 0, 1, 1, 2]), 2).tolist() == [True, False, True]
    mine = config(write(tmp_path / "d.beton", labels=np.sort(LABELS)), global_batch=2)
    train(mine)
    assert "batches of the first epoch have images of one class alone: --loss.name varcon" in capsys.readouterr().out
    monkeypatch.setattr(data, "one_class_batches", lambda labels, batch: np.ones(4, dtype=bool))
    mine.out = tmp_path / "other"
    with pytest.raises(UserError, match="every batch of 2 images has a single class"):
        train(mine)
    mine.loss = LossConfig("varcon", prototype_momentum=0.9)  # remembers the classes of earlier batches
    assert train(mine)["epochs"] == 1


# ---- batch norm over one value --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "remedy"),
    [
        ({"global_batch": 2, "batch_norm": "ghost", "bn_group": 1}, "a larger --train.bn-group"),
        ({"global_batch": 4, "batch_norm": "ghost", "bn_group": 1, "micro_batch": 1}, "a larger --train.bn-group"),
    ],
)
def test_batch_norm_over_one_value_is_refused(config, tmp_path, settings, remedy):
    mine = config(write(tmp_path / "d.beton"), **settings)
    mine.loss, mine.data.num_views = LossConfig("cross_entropy"), 1
    with pytest.raises(UserError, match=rf"would normalise one view of one image .* 1 x 1 pixels .*: use {remedy}"):
        train(mine)
    mine.data.num_views = 2
    assert train(mine)["epochs"] == 1


def test_batch_norm_of_processes_with_one_image_each(config, tmp_path, monkeypatch):
    """Local statistics are those of a process; synchronised ones those of both."""
    from fastvarcon.models.encoders import build_encoder
    from fastvarcon.training import network

    monkeypatch.setattr(network.dist, "get_world_size", lambda group: 2)
    encoder = build_encoder("resnet18", width=0.0625, small_images=True)
    mine = config(tmp_path / "d.beton", global_batch=2)
    mine.data.num_views = 1
    with pytest.raises(UserError, match=r"use a larger --train\.global-batch, or larger views"):
        network.require_several_values(mine, encoder, object(), 8)
    network.require_several_values(mine, encoder, object(), 9)
    mine.train.batch_norm = "sync"
    network.require_several_values(mine, encoder, object(), 8)
    assert encoder.training


def test_batch_norm_over_the_pixels_of_one_image_works(config, tmp_path):
    mine = config(write(tmp_path / "d.beton"), global_batch=2, batch_norm="ghost", bn_group=1)
    mine.loss, mine.data.num_views, mine.data.size, mine.data.eval_resize = LossConfig("cross_entropy"), 1, 16, 16
    assert train(mine)["epochs"] == 1
