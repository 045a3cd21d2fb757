"""Image folders: a level too high, links of every kind, names that are one."""

import os
import re

import pytest

from fastvarcon.data.backends import BackendOptions
from fastvarcon.data.backends.folder import FolderBackend
from fastvarcon.data.image_folder import scan_image_folder
from fastvarcon.data_prep.sources import open_source
from fastvarcon.errors import UserError


def write(root, *files):
    """Files in which nobody looks: listing goes by name."""
    for file in files:
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).write_bytes(b"x")
    return root


def refused(root, message):
    with pytest.raises(UserError, match=message) as found:
        scan_image_folder(root)
    assert "\n" not in str(found.value)
    with pytest.raises(UserError):
        open_source(root)


# ---- a level too high ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("files", "inside"),
    [
        (["train/cat/0.jpg", "train/dog/0.jpg"], "train"),
        (["flowers/cat/0.jpg", "flowers/dog/0.jpg", "README.txt"], "flowers"),
        (["a/b/cat/0.jpg", "a/b/dog/0.jpg"], "a/b"),
        (["training/cat/0.jpg", "testing/cat/0.jpg"], "training"),
        (["Test-2017/cat/0.jpg", "Train-2017/cat/0.jpg"], "Train-2017"),
        (["set/train_set/x/cat/0.jpg", "set/test_set/x/cat/0.jpg", "set/train_set/x/dog/0.jpg"], "set/train_set/x"),
        (["train/0.jpg", "val/0.jpg"], "train"),
        (["query/1/0.jpg", "gallery/1/0.jpg", "train/1/0.jpg"], "train"),
        (["train/cat/0.jpg", "val/cat/0.jpg", "cat/0.jpg"], "train"),
    ],
)
def test_the_folder_to_give_is_named(tmp_path, files, inside):
    root = write(tmp_path / "data", *files)
    refused(root, rf"give (one of them, )?{re.escape(str(root / inside))}(,|$)")


@pytest.mark.parametrize(
    ("files", "classes"),
    [
        (["all/0.jpg", "all/more/1.jpg"], ["all"]),
        (["train/0.jpg"], ["train"]),
        (["train/0.jpg", "car/0.jpg"], ["car", "train"]),
        (["cat/images/0.jpg", "dog/images/0.jpg"], ["cat", "dog"]),
    ],
)
def test_these_are_classes(tmp_path, files, classes):
    assert scan_image_folder(write(tmp_path / "data", *files)).classes == classes


# ---- links -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def root(tmp_path):
    return write(tmp_path / "data", "cat/0.jpg", "cat/1.jpg", "dog/0.jpg")


@pytest.mark.parametrize("place", ["cow", "cat/more", "cat/more/and/more"])
def test_a_folder_that_is_a_dead_link_is_named(root, place):
    link = root / place
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to("/nowhere/cow")
    refused(root, rf"{link} is a link to /nowhere/cow, which is not there: restore that")
    link.unlink()
    link.symlink_to(link)
    refused(root, rf"{link} is a link to {link}, which is not there")


def test_nothing_but_dead_links(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "cow").symlink_to(tmp_path / "unmounted")
    refused(tmp_path / "data", r"data/cow is a link to .*unmounted, which is not there")


@pytest.mark.parametrize(
    ("link", "target", "message"),
    [
        ("cat/up", "..", r"cat/up is a link to .*data, which is above it"),
        ("cat/a/up", "../../..", r"cat/a/up is a link to .*, which is above it"),
        ("up", ".", r"up is a link to .*data itself"),
        ("up", "..", r"up is a link to .*, which is above it"),
        ("cat/dogs", "../dog", r"dog and .*cat/dogs are one folder|cat/dogs and .*dog are one folder"),
        ("kitten", "cat", r"kitten and .*cat are one folder, by a link, but two classes"),
    ],
)
def test_one_folder_is_not_of_two_classes(root, link, target, message):
    (root / link).parent.mkdir(exist_ok=True)
    (root / link).symlink_to(target)
    refused(root, message)


def test_links_within_a_class_are_harmless(root):
    (root / "cat" / "back").symlink_to(root / "cat")
    write(root, "cat/sub/2.jpg")
    (root / "cat" / "again").symlink_to("sub")
    (root / "cat" / "3.jpg").symlink_to("0.jpg")
    assert len(scan_image_folder(root).paths) == len(open_source(root)) == 5


def test_a_dead_link_to_an_image_is_a_broken_image(root):
    (root / "cat" / "2.jpg").symlink_to("/nowhere.jpg")
    assert root / "cat" / "2.jpg" in scan_image_folder(root).paths
    with pytest.raises(UserError, match=r"cat/2\.jpg cannot be read \(No such file or directory\): restore"):
        FolderBackend(root, BackendOptions())


# ---- names -----------------------------------------------------------------------------------------------------------


def test_one_spelling_and_one_order(tmp_path):
    """café comes behind cafz in one spelling and before it in the other."""
    one = scan_image_folder(write(tmp_path / "one", "caf\u00e9/0.jpg", "cafz/0.jpg"))
    two = scan_image_folder(write(tmp_path / "two", "cafe\u0301/0.jpg", "cafz/0.jpg"))
    assert one.classes == two.classes == ["cafz", "caf\u00e9"]
    assert [path.parent.name for path in two.paths] == ["cafz", "cafe\u0301"]


@pytest.mark.parametrize("name", [b"a\xff", b"a\nb", b"\x1b[2J"])
def test_names_that_no_file_can_keep(root, name):
    os.mkdir(os.fsencode(root) + b"/" + name)
    write(root, os.fsdecode(name) + "/0.jpg")
    refused(root, r"has a class named '.*\\.*', which .*: rename it")


def test_two_folders_that_are_one_class(root):
    write(root, "caf\u00e9/0.jpg", "cafe\u0301/0.jpg")
    refused(root, "two classes named caf\u00e9")
