"""IDX files against torchvision's readers, in the names that MNIST, EMNIST and their mirrors use; and damaged ones."""

import gzip
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_digits

from fastvarcon.data_prep.sources import open_source
from fastvarcon.errors import UserError


def idx(array: np.ndarray, kind: int = 8) -> bytes:
    return bytes([0, 0, kind, array.ndim]) + np.asarray(array.shape, ">u4").tobytes() + array.astype(np.uint8).tobytes()


def write_pair(folder, prefix, images, labels, form="{}-idx{}-ubyte", compressed=False):
    folder.mkdir(parents=True, exist_ok=True)
    for what, array, dims in (("images", images, images.ndim), ("labels", labels, 1)):
        name = prefix + form.format(what, dims)
        content = idx(array)
        (folder / (name + ".gz" * compressed)).write_bytes(gzip.compress(content) if compressed else content)
    return folder


@pytest.fixture(scope="module")
def digits():
    """[50, 8, 8] uint8 and [50]."""
    images, labels = load_digits(return_X_y=True)
    return (images[:50] * 15).astype(np.uint8).reshape(-1, 8, 8), labels[:50].astype(np.uint8)


def pixels(source) -> np.ndarray:
    return np.stack([source.read(index) for index in range(len(source))])


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("split", ["train", "test"])
def test_pixels_and_labels_are_those_of_torchvision(tmp_path, digits, split, compressed):
    images, labels = digits
    raw = tmp_path / "MNIST" / "raw"
    for prefix, part in (("train-", slice(0, 30)), ("t10k-", slice(30, 50))):
        write_pair(raw, prefix, images[part], labels[part])
    expected = torchvision.datasets.MNIST(tmp_path, train=split == "train")
    if compressed:
        for file in list(raw.iterdir()):
            file.with_name(file.name + ".gz").write_bytes(gzip.compress(file.read_bytes()))
            file.unlink()
    source = open_source(raw, split=split)
    assert np.array_equal(pixels(source), expected.data) and source.labels.tolist() == expected.targets.tolist()
    assert source.classes == [str(label) for label in range(10)]


def test_one_set_of_emnist(tmp_path, digits):
    """Labels of its letters begin at 1: class 0 is empty, as it is in the files."""
    images, labels = digits
    raw = tmp_path / "EMNIST" / "raw"
    for prefix, first in (("letters-train", 0), ("letters-test", 10), ("digits-train", 20), ("digits-test", 30)):
        write_pair(raw, f"emnist-{prefix}-", images[first : first + 9], labels[first : first + 9] + 1)
    source = open_source(raw, split="emnist-letters-test")
    expected = torchvision.datasets.EMNIST(tmp_path, "letters", train=False)
    assert np.array_equal(pixels(source), expected.data) and source.labels.tolist() == expected.targets.tolist()
    with pytest.raises(UserError, match="several splits of the name train: choose from emnist-digits-test, emnist-di"):
        open_source(raw, split="train")


@pytest.mark.parametrize("form", ["{}-idx{}-ubyte", "{}.idx{}-ubyte", "{}-idx{}.ubyte"])
def test_the_images_file_finds_its_labels(tmp_path, digits, form):
    write_pair(tmp_path, "train-", *digits, form)
    write_pair(tmp_path, "t10k-", digits[0][:3], digits[1][:3], form)
    source = open_source(tmp_path / ("t10k-" + form.format("images", 3)))
    assert np.array_equal(pixels(source), digits[0][:3]) and source.labels.tolist() == digits[1][:3].tolist()
    assert source.key(2) == "t10k-" + form.format("images", 3) + " image 2"


def test_an_unpacked_file_goes_before_its_gz(tmp_path, digits):
    write_pair(tmp_path, "train-", *digits)
    for file in list(tmp_path.iterdir()):
        file.with_name(file.name + ".gz").write_bytes(b"not read")
    assert np.array_equal(pixels(open_source(tmp_path)), digits[0])


def test_colour_images(tmp_path, rng):
    images = rng.integers(0, 256, (4, 6, 5, 3), dtype=np.uint8)
    source = open_source(write_pair(tmp_path, "train-", images, np.arange(4)))
    assert np.array_equal(pixels(source), images)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("images-idx3", b"", "is empty"),
        ("images-idx3", b"hello, world", "is not an IDX file"),
        ("images-idx3", idx(np.zeros((2, 3, 3)), kind=0x0D), "values of type 0x0d"),
        ("images-idx3", idx(np.zeros((2, 3, 3)))[:9], "ends within its header"),
        ("images-idx3", idx(np.zeros((2, 3, 3)))[:-1], "has 33 bytes, its header says 34"),
        ("images-idx3", idx(np.zeros((2, 3, 3))) + b"x", "has 35 bytes, its header says 34"),
        ("images-idx3", idx(np.zeros((2, 3))), "where images are"),
        ("images-idx3", idx(np.zeros((2, 3, 3, 4))), "where images are"),
        ("images-idx3", idx(np.zeros((0, 3, 3))), "none of them 0"),
        ("images-idx3", gzip.compress(idx(np.zeros((2, 3, 3))), mtime=0)[:-9], "not a whole .gz file"),
        ("images-idx3", gzip.compress(idx(np.zeros((2, 3, 3)))[:-1], mtime=0), "its header says 34"),
        ("labels-idx1", idx(np.zeros(3)), "dimensions .3. for 2 images"),
        ("labels-idx1", idx(np.zeros((2, 1))), "dimensions .2, 1. for 2 images"),
    ],
)
def test_damaged_files(tmp_path, name, content, message):
    write_pair(tmp_path, "train-", np.zeros((2, 3, 3)), np.zeros(2))
    (tmp_path / f"train-{name}-ubyte").write_bytes(content)
    with pytest.raises(UserError, match=rf"train-{name}-ubyte .*{message}"):
        open_source(tmp_path)


def test_what_is_missing_or_must_be_chosen(tmp_path, digits):
    write_pair(tmp_path, "train-", *digits)
    write_pair(tmp_path, "t10k-", *digits)
    with pytest.raises(UserError, match="several splits, test, train: choose one with --split"):
        open_source(tmp_path)
    with pytest.raises(UserError, match="no split of the name val: choose from test, train"):
        open_source(tmp_path, split="val")
    with pytest.raises(UserError, match="is not named as IDX images are"):
        open_source(tmp_path / "train-labels-idx1-ubyte")
    (tmp_path / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(UserError, match="no labels beside it: fetch t10k-labels-idx1-ubyte"):
        open_source(tmp_path, split="test")
    with pytest.raises(UserError, match="holds no IDX images"):
        open_source((tmp_path / "x").mkdir() or tmp_path / "x", "idx")


def test_a_gz_file_that_memory_does_not_hold(digits, tmp_path, monkeypatch):
    write_pair(tmp_path, "train-", digits[0][:3], digits[1][:3], compressed=True)
    monkeypatch.setattr("fastvarcon.data_prep.sources.idx.available_memory", lambda: 100)
    with pytest.raises(UserError, match=r"unpacks to 0.0 GB, 0.0 GB are free: gunzip it first"):
        open_source(tmp_path, "idx")


def test_a_gz_file_that_cannot_hold_what_it_says(digits, tmp_path):
    write_pair(tmp_path, "train-", digits[0][:3], digits[1][:3], compressed=True)
    header = b"\0\0\x08\x03" + np.array([2**31, 2**10, 2**10], ">u4").tobytes()
    (images,) = tmp_path.glob("*images*")
    images.write_bytes(gzip.compress(header + bytes(1000)))
    with pytest.raises(UserError, match=r"holds fewer than the 2251799813685248 bytes that its header says"):
        open_source(tmp_path, "idx")


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_damaged_files_are_refused_or_read_whole(digits, data):
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_pair(folder, "train-", digits[0][:3], digits[1][:3], compressed=data.draw(st.booleans()))
        file = data.draw(st.sampled_from(sorted(folder.iterdir())))
        content = bytearray(file.read_bytes())
        place = st.one_of(st.integers(0, 16), st.integers(0, len(content) - 1))
        for position in data.draw(st.lists(place, max_size=3)):
            content[position % len(content)] = data.draw(st.integers(0, 255))
        file.write_bytes(content[: data.draw(st.one_of(st.just(len(content)), place))])
        try:
            source = open_source(folder, "idx")
        except UserError:
            return
        assert len(source) and source.labels.max() < len(source.classes)
        assert len(pixels(source)) == len(source.labels)
