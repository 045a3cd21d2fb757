"""What every source offers, and what several of them need."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fastvarcon.data.beton import MAX_UNNAMED_CLASSES, UNLABELLED
from fastvarcon.data.class_names import check_names, splits_among
from fastvarcon.data.mapped_file import map_file
from fastvarcon.data_prep.journal import FileState
from fastvarcon.errors import UserError, reason

MAX_TEXT = 100_000_000
"""Bytes; a million names have 20 million."""


class Source(ABC):
    """Labelled images in a fixed order. Pickles small, so that every worker process can have one."""

    name: str
    """The folder or file, for messages and the progress line."""
    classes: list[str]
    """Index = label."""
    labels: np.ndarray
    """[n] int64."""
    left_out: Mapping[str, int] = {}
    """Number of files passed over because they are not images that can be read, by kind: see image_kinds."""
    _cache: Any = None
    """What this process keeps open or in memory to read quickly; another process makes its own."""

    def __len__(self) -> int:
        return len(self.labels)

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_cache": None}

    @abstractmethod
    def key(self, index: int) -> str:
        """Names the image in messages; the same in every run."""

    @abstractmethod
    def read(self, index: int) -> Path | bytes | np.ndarray:
        """A file to decode, encoded bytes, or pixels: [h, w, 3] or [h, w] uint8. Quickest in the order of the index.

        Raises:
            ImageError: this image cannot be read; names `key(index)`. What the bytes decode to is not checked here.
        """

    def state(self, index: int) -> FileState:
        """Of the file that holds the image: a conversion that is resumed reads again what has changed.

        Of a file that holds many images it is the state in which it was opened. Here: there is no file.
        """
        return 0, 0

    def first_per_class(self, count: int) -> Source:
        """The same classes with at most `count` images each, the first ones in order."""
        by_class = np.argsort(self.labels, kind="stable")
        sorted_labels = self.labels[by_class]
        rank = np.arange(len(self)) - np.searchsorted(sorted_labels, sorted_labels)
        return _Selection(self, np.sort(by_class[rank < count]))

    def of_classes(self, names: list[str]) -> Source:
        """The images of these classes alone, in the order in which `classes` has them.

        Raises:
            UserError: a class that is not there.
        """
        absent = sorted(set(names) - set(self.classes))
        if absent:
            raise UserError(
                f"{self.name} lacks {len(absent)} of the {len(set(names))} --classes, {absent[0]} among them: "
                "correct the list, or give the folder that has them"
            )
        chosen = [label for label, name in enumerate(self.classes) if name in names]
        selection = _Selection(self, np.flatnonzero(np.isin(self.labels, chosen)))
        selection.classes = [self.classes[label] for label in chosen]
        selection.labels = np.searchsorted(chosen, selection.labels)
        return selection


class _Selection(Source):
    def __init__(self, source: Source, kept: np.ndarray):
        self.name, self.classes, self.left_out = source.name, source.classes, source.left_out
        self.labels = source.labels[kept]
        self._source = source
        self._kept = kept

    def key(self, index: int) -> str:
        return self._source.key(int(self._kept[index]))

    def read(self, index: int) -> Path | bytes | np.ndarray:
        return self._source.read(int(self._kept[index]))

    def state(self, index: int) -> FileState:
        return self._source.state(int(self._kept[index]))


def file_state(path: Path | str) -> FileState:
    """Size in bytes, and time of the last change in nanoseconds; (-1, 0) where there is no file."""
    try:
        status = os.stat(path)
    except OSError:
        return -1, 0
    return status.st_size, status.st_mtime_ns


def short_name(path: Path) -> str:
    """The last part of a path, also of `.` and `..`."""
    return os.path.basename(os.path.abspath(path)) or str(path)


def map_bytes(path: Path) -> np.ndarray:
    """The file as [size] uint8, read from disk when it is used.

    Raises:
        UserError: it cannot be read, or is empty.
    """
    try:
        return np.frombuffer(map_file(path), np.uint8)
    except UserError:  # too many are open
        raise
    except OSError as error:
        raise UserError(f"{path} cannot be read ({reason(error)}): fetch it again") from None
    except ValueError:
        raise UserError(f"{path} is empty: fetch it again") from None


def read_text(path: Path) -> str:
    """A list that somebody wrote beside the data. Windows begins a text with a mark, which is left out.

    Raises:
        UserError: it is not a file that can be read, or is too large for a list.
        UnicodeDecodeError: it is not UTF-8.
    """
    content = map_bytes(path)
    if content.size > MAX_TEXT:
        raise UserError(f"{path} has more than {MAX_TEXT / 1e6:.0f} MB, which no list of classes has: remove it")
    return content.tobytes().decode("utf-8-sig")


def class_names(labels: np.ndarray, names: list[str] | None, key: Callable[[int], str], where: object) -> list[str]:
    """`names` by the rule for all sources, or where there are none the numbers from 0 to the largest label.

    Raises:
        UserError: an image whose label lies outside, `key` names it; names that are none, or those of splits: `where`
            has them.
    """
    limit = MAX_UNNAMED_CLASSES if names is None else len(names)
    outside = (labels < 0) | (labels >= limit)
    if outside.any():
        index = int(outside.argmax())
        label = int(labels[index])
        if label == UNLABELLED:
            raise UserError(f"{key(index)} has label -1, which means unlabelled: choose a split that has labels")
        raise UserError(f"{key(index)} has label {label}, outside 0 to {limit - 1}: correct the labels or their names")
    if names is None:
        return [str(label) for label in range(int(labels.max(initial=-1)) + 1)]
    checked = check_names(names, where)
    splits = splits_among(checked)
    if splits:
        raise UserError(
            f"{where} has classes named {', '.join(splits)}, which are splits: give the labels of the images"
        )
    return checked
