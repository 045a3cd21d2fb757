"""A training and a held-out set: one numbering of their classes, and images that are in both."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np

from fastvarcon.data.backends import Allocate, Backend, fresh_buffer
from fastvarcon.data.batch import ImageBatch
from fastvarcon.data.class_names import relabel
from fastvarcon.data.content import Content
from fastvarcon.errors import UserError


class Relabelled:
    """A backend of held-out images under the class numbers of the training images."""

    def __init__(self, backend: Backend, classes: list[str]):
        self._backend, self.name, self.sizes = backend, backend.name, backend.sizes
        self.labels, self.classes = relabel(backend.labels, backend.classes, classes), classes

    def __len__(self) -> int:
        return len(self._backend)

    @property
    def fingerprint(self) -> str:
        return self._backend.fingerprint

    @property
    def content(self) -> Content:
        return self._backend.content

    def fetch(self, ids: np.ndarray, allocate: Allocate = fresh_buffer) -> ImageBatch:
        batch = self._backend.fetch(ids, allocate)
        return dataclasses.replace(batch, labels=batch.labels.new_tensor(self.labels[batch.ids.numpy()]))

    def will_need(self, first: int, last: int) -> None:
        self._backend.will_need(first, last)

    def close(self) -> None:
        self._backend.close()


def check_overlap(train: Content, held_out: Content, paths: tuple[Path, Path], flag: str, allowed: bool) -> str | None:
    """A line about images that are in both sets, counted by their record hashes; None if there are none.

    Args:
        paths: of the training and of the held-out images.
        flag: that allows it, for the message.

    Raises:
        UserError: the two are the same images, and that is not `allowed`.
    """
    shared = 0
    if train.hashes is not None and held_out.hashes is not None:
        shared = int(np.isin(held_out.hashes, train.hashes).sum())
        same = shared == held_out.images and bool(np.isin(train.hashes, held_out.hashes).all())
    else:
        same = (train.records, train.basis) == (held_out.records, held_out.basis)
    if same or paths[0].resolve() == paths[1].resolve():
        what = f"the held-out images {paths[1]} are the training images {paths[0]}"
        if not allowed:
            raise UserError(f"{what}: give images that training does not see, or {flag}")
        return f"{what}: no score of theirs says anything about new images"
    if shared:
        return (
            f"{shared:,} of the {held_out.images:,} held-out images of {paths[1]} are also training images of "
            f"{paths[0]}: they flatter every score"
        )
    return None
