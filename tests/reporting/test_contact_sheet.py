"""`fastvarcon inspect --views`: the picture shows the views of a training, of images of different classes."""

import numpy as np
import pytest
import torch
from PIL import Image

from fastvarcon.config import DataConfig
from fastvarcon.data.backends import open_backend
from fastvarcon.data.loader import Loader, ViewSpec
from fastvarcon.reporting.contact_sheet import GAP, LINE, MARGIN, choose, contact_sheet


def test_classes_take_turns():
    labels = np.repeat([0, 1, 2, -1], [50, 3, 20, 7])
    ids = choose(labels, 4, seed=1)
    assert sorted(labels[ids]) == [-1, 0, 1, 2]
    assert np.bincount(labels[choose(labels, 15, seed=1)] + 1).tolist() == [4, 4, 3, 4]
    assert sorted(choose(labels, 80, seed=1)) == list(range(80))
    assert choose(labels, 9, seed=1).tolist() == choose(labels, 9, seed=1).tolist() != choose(labels, 9, 2).tolist()
    many = np.arange(1000)
    assert choose(many, 8, seed=0).max() > 500  # not the first classes of the list


def test_views_are_those_of_the_first_epoch(digits):
    images = open_backend("cpu", digits[1])
    sheet = np.asarray(contact_sheet(images, "digits", count=1, policy="simclr", size=None, seed=5))
    (chosen,) = choose(images.labels, 1, 5)
    spec = ViewSpec(size=8, mean=DataConfig.mean, std=DataConfig.std, policy="simclr")
    with Loader(images, spec, global_batch=36, seed=5) as loader:
        for views, _, ids in loader:
            if chosen in ids:
                pair = views[ids.repeat(2) == int(chosen)]
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (DataConfig.mean, DataConfig.std))
    pair = (255 * (pair * std + mean)).round().clamp(0, 255).permute(0, 2, 3, 1).numpy()
    top = 2 * MARGIN + LINE
    for view in range(2):
        left = MARGIN + (view + 1) * (192 + GAP)
        shown = sheet[top : top + 192 : 24, left : left + 192 : 24]
        np.testing.assert_array_equal(shown, pair[view])
    images.close()


@pytest.mark.parametrize(("count", "shape"), [(1, (1, 1)), (3, (1, 3)), (8, (2, 4)), (15, (3, 5))])
def test_layout(digits, count, shape):
    images = open_backend("cpu", digits[1])
    sheet = contact_sheet(images, "digits", count=count, policy="crop", size=300, seed=0)
    images.close()
    block = 3 * 256 + 2 * GAP, 256 + 2 * LINE  # large views are shown reduced
    sides = [MARGIN + n * (side + MARGIN) for n, side in zip(shape, block, strict=True)]
    assert sheet.size == (sides[0], sides[1] + MARGIN)


@pytest.mark.parametrize(("policy", "words"), [("eval", "crop 75%"), ("randaugment", "Posterize"), ("simclr", "blur")])
def test_what_was_done_is_said(monkeypatch, digits, policy, words):
    said = []
    monkeypatch.setattr("PIL.ImageDraw.ImageDraw.text", lambda draw, at, text, *style: said.append(text))
    images = open_backend("cpu", digits[1])
    contact_sheet(images, "digits", count=30, policy=policy, size=32, seed=0)
    images.close()
    assert any(words in text for text in said) and not any("Identity" in text for text in said)
    assert any(text.startswith("image ") and text.endswith(", 8 x 8") for text in said)


def test_command_writes_a_picture(fastvarcon, image_folder, tmp_path):
    file, out = tmp_path / "a.beton", tmp_path / "sheet.png"
    fastvarcon("convert", image_folder, file, "--workers", "1")
    said = fastvarcon("inspect", file, "--views", "6", "--out", out)
    assert "15 images, 3 classes" in said and said.rstrip().endswith("sheet.png")
    assert Image.open(out).format == "PNG" and sorted(path.name for path in tmp_path.glob("*.p*")) == ["sheet.png"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--views", "0"), "--views must lie between"),
        (("--views", "15", "--size", "0"), "--size must lie between"),
        (("--views", "5", "--policy", "wild"), "unknown augmentation policy 'wild'"),
        (("--views", "5", "--seed", "-1"), "--seed must lie between"),
        (("--views", "5", "--out", "/nowhere/x.png"), "make it first"),
        (("--views", "5", "--out", "x.jpg"), "must name a .png file"),
        (("--views", "64"), "holds 15 images"),
        (("--policy", "simclr"), "add --views"),
    ],
)
def test_what_cannot_be_drawn(fastvarcon, image_folder, tmp_path, flags, message):
    file = tmp_path / "a.beton"
    fastvarcon("convert", image_folder, file, "--workers", "1")
    said = fastvarcon("inspect", file, *flags, code=2)
    assert message in said and said.count("\n") == 1
