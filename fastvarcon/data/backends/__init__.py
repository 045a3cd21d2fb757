"""Backends: sample ids -> ImageBatch. Each decodes an image once, however many views are made of it."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Protocol

import numpy as np

from fastvarcon.data.batch import ImageBatch
from fastvarcon.errors import UserError

_HOME = {"cpu": "fastvarcon.data.backends.cpu:CpuBackend", "folder": "fastvarcon.data.backends.folder:FolderBackend"}


class Backend(Protocol):
    """What the loader asks of a backend. All backends deliver the same batch for the same ids of the same images."""

    name: str
    classes: list[str]
    labels: np.ndarray
    """[n] int64, index into classes; negative = unlabelled."""
    fingerprint: str
    """Changes when the data on disk changes; names cached features."""

    def __len__(self) -> int: ...

    def fetch(self, ids: np.ndarray) -> ImageBatch:
        """Decode the images `ids` [B] on the host. Raises ImageError, naming the image, if one cannot be decoded."""

    def close(self) -> None:
        """Release threads and files; may be called twice."""


def open_backend(name: str, path: Path | str, workers: int) -> Backend:
    """Open a dataset. `workers` is the number of decoding threads, at least 1.

    Raises:
        UserError: unknown backend, or a dataset that it cannot read.
    """
    if name not in _HOME:
        raise UserError(f"unknown data backend {name!r}: choose from {', '.join(_HOME)}")
    module, cls = _HOME[name].split(":")
    return getattr(importlib.import_module(module), cls)(Path(path), workers)
