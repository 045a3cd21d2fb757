"""Classes by name: what one may be called, which names are one, and one numbering for two sets."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

import numpy as np

from fastvarcon.errors import UserError
from fastvarcon.visible import UNPRINTABLE, visible


def one_spelling(name: str) -> str:
    """A letter with an accent is one character or two: macOS gives the second, nearly everything else the first."""
    return unicodedata.normalize("NFC", name)


def names_in_file(names: object) -> list[str] | None:
    """Class names as every reader of a file gives them out, also of files older than `check_names`.

    None if they are not a list of text.
    """
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        return None
    return [visible(one_spelling(name)) for name in names]


def check_names(names: Iterable[str], where: object) -> list[str]:
    """`names` in one spelling.

    Raises:
        UserError: a name that is empty, is not text or holds control characters; two that are one. `where` has them.
    """
    checked = [one_spelling(name) for name in names]
    seen: dict[str, int] = {}
    for label, name in enumerate(checked):
        why = _fault(name)
        if why is not None:
            raise UserError(f"{where} has a class named '{visible(name)}', {why}: rename it")
        if name in seen:
            raise UserError(
                f"{where} has two classes named {name} (numbers {seen[name]} and {label}, perhaps spelled with other "
                "bytes): rename one"
            )
        seen[name] = label
    return checked


def _fault(name: str) -> str | None:
    if not name.strip():
        return "which is empty"
    if re.search("[\ud800-\udfff]", name):
        return "which is not UTF-8 text"
    return "which holds a control character" if UNPRINTABLE.search(name) else None


# ---- names of splits -------------------------------------------------------------------------------------------------

TRAIN = "train|training|trn|trainval"
HELD_OUT = (
    "test|testing|tests|tst|val|vals|valid|validate|validation|validating|dev|devel|development|eval|evaluation|"
    "evaluate|holdout|heldout|query|gallery"
)
BESIDE = "extra|labeled|labelled|unlabeled|unlabelled|fold|folds"
"""Names of splits only where there are others."""
SPLIT_WORD = re.compile(
    rf"(?:(?P<train>{TRAIN})|(?P<held_out>{HELD_OUT})|{BESIDE})(?:sets?|data|images?|imgs?|splits?)?"
)
FILLERS = re.compile(
    "sets?|data|dataset|images?|imgs?|pictures?|photos?|splits?|folders?|full|mini|tiny|small|clean|raw|new|old|final|"
    "shards?|parts?|original|public|private|my|the|[a-z]|ilsvrc|imagenet|coco|cifar|bounding|box"
)


def split_role(name: str) -> str | None:
    """Of the name of a split "train", "held out" or "beside", of any other None.

    A split may be numbered and dressed up: train_set, Train-2017, trainImages, test2, ILSVRC2012_img_val. A "bullet
    train" and a "test tube" are things.
    """
    joined = re.sub("(?i)(hold|held)[^a-z]?out", "holdout", name)
    words = [word.lower() for word in re.findall("[^\\W\\d_]+", re.sub("(?<=[a-z])(?=[A-Z])", " ", joined))]
    found = [match for match in map(SPLIT_WORD.fullmatch, words) if match]
    if not found or not all(SPLIT_WORD.fullmatch(word) or FILLERS.fullmatch(word) for word in words):
        return None
    if any(match["train"] for match in found):
        return "train"
    return "held out" if any(match["held_out"] for match in found) else "beside"


def splits_among(names: Iterable[str]) -> list[str]:
    """The names that make `names` splits of a data set and not its classes; [] if they are classes.

    Splits are all of several, or some of training and some held out: cars, buses and trains are classes.
    """
    roles = {name: split_role(name) for name in names}
    splits = [name for name, role in roles.items() if role]
    certain = {role for role in roles.values() if role in ("train", "held out")}
    if len(certain) == 2 or len(splits) == len(roles) > 1:
        return sorted(splits, key=lambda name: (roles[name] != "train", name))
    return []


# ---- two sets --------------------------------------------------------------------------------------------------------

NAMED = 5  # names in a message


def listed(names: list[str]) -> str:
    """The first names and how many more there are."""
    more = len(names) - NAMED
    return ", ".join(names[:NAMED]) + (f" and {more:,} more" if more > 0 else "")


def class_numbers(held_out: list[str], train: list[str]) -> np.ndarray:
    """[len(held_out)] int64: the number of each held-out class among those of training, by name.

    Raises:
        UserError: held-out classes that training does not know.
    """
    held_out = [one_spelling(name) for name in held_out]
    number = {one_spelling(name): index for index, name in enumerate(train)}
    unknown = [name for name in held_out if name not in number]
    if unknown:
        raise UserError(
            f"the training and the held-out images have different classes: {len(unknown)} of the {len(held_out)} "
            f"held-out ones are not among the {len(train)} of training ({listed(unknown)}): convert both from folders "
            "with the same class names"
        )
    return np.array([number[name] for name in held_out], dtype=np.int64)


def relabel(labels: np.ndarray, held_out: list[str], train: list[str]) -> np.ndarray:
    """Labels [n] of held-out classes as those of training; negative ones stay. Raises as `class_numbers`."""
    return np.append(class_numbers(held_out, train), -1)[np.where(labels < 0, -1, labels)]


def without_images(labels: np.ndarray, classes: list[str], what: str) -> str | None:
    """A line about the classes that have no images, if there are any."""
    counts = np.bincount(labels[labels >= 0], minlength=len(classes))
    empty = [name for name, count in zip(classes, counts, strict=True) if not count]
    if not empty:
        return None
    have = "has" if len(empty) == 1 else "have"
    return f"{len(empty):,} of {len(classes):,} classes {have} no {what} ({listed(empty)})"
