"""Labels of one dataset in the numbers of another: classes meet by their names, never by the order of two files."""

from __future__ import annotations

import dataclasses
import hashlib
import unicodedata
from collections.abc import Sequence

import numpy as np

from fastvarcon.data.backends import Allocate, Backend, fresh_buffer
from fastvarcon.data.batch import ImageBatch


def numbers_of(theirs: Sequence[str], ours: Sequence[str]) -> np.ndarray | None:
    """[len(theirs)] int64: the index within `ours` of each class; None unless both have the same names.

    Names that differ in how Unicode composes their letters (NFC, NFD) are the same.
    """
    if list(theirs) == list(ours):
        return np.arange(len(ours))
    place = {unicodedata.normalize("NFC", name): index for index, name in enumerate(ours)}
    found = [place.get(unicodedata.normalize("NFC", name), -1) for name in theirs]
    same = sorted(found) == list(range(len(ours)))
    return np.array(found, dtype=np.int64) if same else None


def numbered_as(backend: Backend, classes: Sequence[str]) -> Backend | None:
    """The same images, labels numbered in the order of `classes`; None where the names of the classes are others."""
    numbers = numbers_of(backend.classes, classes)
    if numbers is None or backend.classes == list(classes):
        return None if numbers is None else backend
    return Renumbered(backend, numbers, list(classes))


class Renumbered:
    """A backend around another one, with labels `numbers[label]`. What is unlabelled stays so."""

    def __init__(self, inner: Backend, numbers: np.ndarray, classes: list[str]):
        self._inner, self._numbers = inner, numbers
        self.name, self.classes, self.sizes = inner.name, classes, inner.sizes
        self.labels = self._renumbered(np.asarray(inner.labels, dtype=np.int64))

    def _renumbered(self, labels: np.ndarray) -> np.ndarray:
        return np.where(labels < 0, labels, self._numbers[np.maximum(labels, 0)])

    @property
    def fingerprint(self) -> str:
        order = hashlib.sha256("\n".join(self.classes).encode(errors="surrogatepass")).hexdigest()
        return f"{self._inner.fingerprint} {order}"

    def __len__(self) -> int:
        return len(self._inner)

    def fetch(self, ids: np.ndarray, allocate: Allocate = fresh_buffer) -> ImageBatch:
        batch = self._inner.fetch(ids, allocate)
        labels = self._renumbered(batch.labels.numpy())
        return dataclasses.replace(batch, labels=batch.labels.new_tensor(labels))

    def will_need(self, first: int, last: int) -> None:
        self._inner.will_need(first, last)

    def close(self) -> None:
        self._inner.close()
