"""Classes by name: one numbering for two sets, and classes that have no images."""

from __future__ import annotations

import numpy as np

from fastvarcon.errors import UserError

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
    number = {name: index for index, name in enumerate(train)}
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
