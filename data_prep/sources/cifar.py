"""CIFAR-10 and CIFAR-100 as their authors hand them out, "python version": pickles that hold 32 x 32 pixels by channel.

Layout:

    cifar-10-batches-py/   data_batch_1 .. data_batch_5, test_batch, batches.meta
    cifar-100-python/      train, test, meta
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fastvarcon.data.decode import ImageError
from fastvarcon.data_prep.journal import FileState
from fastvarcon.data_prep.sources.base import Source, class_names, file_state, short_name
from fastvarcon.data_prep.sources.plain_pickle import PickledArray, load_plain_pickle
from fastvarcon.errors import UserError

SIDE = 32
MAX_CLASSES, MAX_NAME = 1000, 256  # more than any of these sets has: a small pickle can repeat a long name endlessly


@dataclass(frozen=True)
class Layout:
    meta: str
    splits: dict[str, list[str]]
    """Files of each split."""
    names: dict[str, str]
    """Label column -> where the meta file lists its classes. The first one is the usual one."""

    @property
    def files(self) -> list[str]:
        """What tells the data set: a whole one has more."""
        return [self.meta, *(batches[0] for batches in self.splits.values())]


LAYOUTS = (
    Layout(
        "batches.meta",
        {"train": [f"data_batch_{number}" for number in range(1, 6)], "test": ["test_batch"]},
        {"labels": "label_names"},
    ),
    Layout(
        "meta",
        {"train": ["train"], "test": ["test"]},
        {"fine_labels": "fine_label_names", "coarse_labels": "coarse_label_names"},
    ),
)


class CifarSource(Source):
    """One split of CIFAR-10 or CIFAR-100. A process that reads holds the pixels of the batches it has read from.

    Raises:
        UserError: not such a folder, no split chosen, a file that is missing, damaged, or that would run code.
    """

    def __init__(self, root: Path, split: str | None, label_column: str | None):
        layout = _layout_of(root)
        if split not in layout.splits:
            raise UserError(f"{root} holds {' and '.join(layout.splits)} images: choose with --split train or test")
        column = label_column or next(iter(layout.names))
        if column not in layout.names:
            raise UserError(f"{root} has no labels {column}: choose --label-column from {', '.join(layout.names)}")
        self.name = short_name(root)
        self._paths = [root / name for name in layout.splits[split]]
        self._states = [file_state(path) for path in self._paths]
        self._cache: dict[int, np.ndarray] = {}
        labels = []
        for batch, path in enumerate(self._paths):
            pixels, batch_labels = _load_batch(path, column)
            self._cache[batch] = pixels
            labels.append(batch_labels)
        self._starts = np.cumsum([0, *map(len, labels)])
        self.labels = np.concatenate(labels)
        self.classes = class_names(
            self.labels, _load_names(root / layout.meta, layout.names[column]), self.key, root / layout.meta
        )

    def key(self, index: int) -> str:
        batch, row = self._locate(index)
        return f"{self._paths[batch].name} row {row}"

    def read(self, index: int) -> np.ndarray:
        """[32, 32, 3] uint8."""
        batch, row = self._locate(index)
        if self._cache is None:
            self._cache = {}
        if batch not in self._cache:
            try:
                self._cache[batch] = _pixels_in(load_plain_pickle(self._paths[batch]), self._paths[batch])
            except UserError as error:
                raise ImageError(f"{self.key(index)}: {error}") from None
        if row >= len(self._cache[batch]):
            raise ImageError(f"{self.key(index)}: the file has become shorter")
        return np.ascontiguousarray(self._cache[batch][row].reshape(3, SIDE, SIDE).transpose(1, 2, 0))

    def state(self, index: int) -> FileState:
        return self._states[self._locate(index)[0]]

    def _locate(self, index: int) -> tuple[int, int]:
        batch = int(np.searchsorted(self._starts, index, side="right")) - 1
        return batch, index - int(self._starts[batch])


def _layout_of(root: Path) -> Layout:
    for layout in LAYOUTS:
        if all((root / name).is_file() for name in layout.files):
            return layout
    wanted = " or ".join(", ".join(layout.files) for layout in LAYOUTS)
    raise UserError(
        f"{root} is not an unpacked CIFAR folder (python version): it should hold {wanted}; correct the path"
    )


def _load_batch(path: Path, column: str) -> tuple[np.ndarray, np.ndarray]:
    """Pixels [n, 3072] uint8 and labels [n] int64."""
    batch = load_plain_pickle(path)
    pixels = _pixels_in(batch, path)
    labels = _entry(batch, column)
    if not isinstance(labels, list) or len(labels) != len(pixels):
        raise UserError(
            f"{path} is not a CIFAR batch (it should have one of {column} per image): unpack the data set again"
        )
    if not all(type(label) is int and abs(label) < 2**63 for label in labels):
        raise UserError(f"{path} is not a CIFAR batch ({column} that are no numbers): unpack the data set again")
    return pixels, np.asarray(labels, dtype=np.int64)


def _pixels_in(batch: object, path: Path) -> np.ndarray:
    """[n, 3072] uint8; a row is the red plane, the green and the blue."""
    data = _entry(batch, "data")
    values = data.values if isinstance(data, PickledArray) else None
    if values is None or values.ndim != 2 or values.shape[1] != 3 * SIDE * SIDE or len(values) == 0:
        raise UserError(f"{path} is not a CIFAR batch (no rows of {3 * SIDE * SIDE} bytes): unpack the data set again")
    return values


def _load_names(path: Path, column: str) -> list[str]:
    names = _entry(load_plain_pickle(path), column)
    try:
        if not isinstance(names, list) or not all(len(name) <= MAX_NAME for name in names[:MAX_CLASSES]):
            raise TypeError
        return [name if isinstance(name, str) else name.decode() for name in names[:MAX_CLASSES]]
    except (TypeError, AttributeError, ValueError):
        raise UserError(f"{path} does not list the classes ({column}): unpack the data set again") from None


def _entry(batch: object, name: str) -> Any:
    """An entry by its name, which Python 2 wrote as bytes."""
    if not isinstance(batch, dict):
        return None
    return batch.get(name.encode(), batch.get(name))
