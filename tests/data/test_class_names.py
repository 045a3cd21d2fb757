"""Class names: which are allowed, which are one, which are splits."""

import unicodedata

import pytest

from fastvarcon.data.class_names import check_names, names_in_file, split_role, splits_among
from fastvarcon.errors import UserError

VISIBLE = [
    "hot\u00a0dog",
    "\u6771\u4eac\u3000\u30bf",
    "\u06a9\u062a\u0627\u0628\u200c\u0647\u0627",
    "👩\u200d🔬",
]


@pytest.mark.parametrize("name", [*VISIBLE, "a b", "$x$", "-", "n01440764", "'", "\\n"])
def test_visible_names_are_allowed(name):
    assert check_names([name, "cat"], "here") == [name, "cat"] == names_in_file([name, "cat"])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("a\nb", r"here has a class named 'a\\nb', which holds a control character: rename it"),
        ("\x1b[31m", r"named '\\x1b\[31m', which holds a control"),
        ("a\x9bb", "control"),
        ("a\u2028b", "control"),
        ("a\u202eb", "control"),
        ("a\udcff", r"named 'a\\xff', which is not UTF-8 text"),
        ("\ud800", "not UTF-8"),
        ("", "which is empty"),
        ("\u3000", "which is empty"),
    ],
)
def test_names_that_no_file_can_keep(name, message):
    with pytest.raises(UserError, match=message):
        check_names(["cat", name], "here")


def test_one_name_in_two_spellings():
    names = [unicodedata.normalize(form, "café") for form in ("NFC", "NFD")]
    assert check_names(names[:1], "here") == check_names(names[1:], "here") == names_in_file(names[1:])
    with pytest.raises(UserError, match=r"two classes named café \(numbers 0 and 2"):
        check_names([names[0], "the", names[1]], "here")


def test_names_of_older_files_stay_readable():
    assert names_in_file(["a\nb", "\udcff"]) == ["a\\nb", "\\xff"]
    assert names_in_file("ab") is None and names_in_file([1]) is None and names_in_file(None) is None


@pytest.mark.parametrize(
    ("role", "names"),
    [
        ("train", "train TRAIN training trainset train_set Train-2017 training_data trainImages images_train TrainSet"),
        ("train", "ILSVRC2012_img_train my-train bounding_box_train train_0 trainval"),
        ("held out", "test testing test2 testset test_a val valid validation val2017 dev devset eval holdout hold-out"),
        ("held out", "held_out query gallery ILSVRC2012_img_val test-dev2015 public_test ValidationSet validating"),
        ("beside", "extra unlabeled unlabelled fold1 fold_2"),
        (None, "bullet_train train_station test_tube invalid devil evaluator cat n01440764 1 trains valley trainer a"),
    ],
)
def test_names_of_splits(role, names):
    assert {name: split_role(name) for name in names.split()} == dict.fromkeys(names.split(), role)


@pytest.mark.parametrize(
    ("names", "splits"),
    [
        (["val", "train"], ["train", "val"]),
        (["testing", "training", "cats"], ["training", "testing"]),
        (["train", "extra", "test"], ["train", "extra", "test"]),
        (["fold1", "fold2"], ["fold1", "fold2"]),
        (["test1", "test2"], ["test1", "test2"]),
        (["train", "car", "bus"], []),
        (["test", "control"], []),
        (["valid", "invalid"], []),
        (["train"], []),
        ([], []),
    ],
)
def test_splits_in_the_place_of_classes(names, splits):
    assert splits_among(names) == splits
