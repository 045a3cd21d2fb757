"""Backends: sample ids -> ImageBatch. Each decodes an image once, however many views are made of it.

cpu       threads with libjpeg-turbo, straight from the mapped file into one buffer
resident  the whole dataset decoded once, then kept in GPU, pinned or shared host memory
nvjpeg    JPEG records decoded in batches on the GPU (torchvision)
dali      JPEG records decoded by a DALI pipeline, on the CPU or the GPU
ffcv      JPEG records decoded by the ffcv package's own Loader, for comparison
folder    an image folder read file by file with PIL, the slow reference that needs no conversion
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
import torch
from torch import Tensor

from fastvarcon.data.batch import ImageBatch
from fastvarcon.data.content import Content
from fastvarcon.errors import UserError

_HOME = {
    "cpu": "cpu:CpuBackend",
    "resident": "resident:ResidentBackend",
    "nvjpeg": "nvjpeg:NvjpegBackend",
    "dali": "dali:DaliBackend",
    "ffcv": "ffcv:FfcvBackend",
    "folder": "folder:FolderBackend",
}

Allocate = Callable[[int], Tensor]
"""Number of bytes -> flat uint8 host tensor of at least that many, whose content is undefined."""


def fresh_buffer(num_bytes: int) -> Tensor:
    return torch.empty(num_bytes, dtype=torch.uint8)


Keep = Literal["auto", "device", "pinned", "shared"]


@dataclass(frozen=True)
class BackendOptions:
    workers: int = 1
    """Decoding threads, at least 1."""
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    """Where the views will be made; backends that decode on a GPU do it there."""
    keep: Keep = "auto"
    """resident: where the decoded dataset lies; see backends/resident.py."""


class Backend(Protocol):
    """What the loader asks of a backend. All backends deliver the same batch for the same ids of the same images."""

    name: str
    """As chosen by --data.backend, with what the log should say about it: "dali (cpu)"."""
    classes: list[str]
    labels: np.ndarray
    """[n] int64, index into classes; negative = unlabelled."""
    sizes: np.ndarray
    """[n] int64, bytes on disk of each sample."""

    @property
    def fingerprint(self) -> str:
        """Changes when the data on disk changes; names cached features."""

    @property
    def content(self) -> Content:
        """What the images are, wherever they are stored."""

    def __len__(self) -> int: ...

    def fetch(self, ids: np.ndarray, allocate: Allocate = fresh_buffer) -> ImageBatch:
        """Decode the images `ids` [B].

        Host pixels are written into a buffer from `allocate`, once per call; sizes, labels and ids are on the host
        always. A backend that decodes on a device, or keeps the pixels, returns its own.

        Raises:
            ImageError: one cannot be decoded; the message names it and `sample` is its id.
        """

    def will_need(self, first: int, last: int) -> None:
        """The samples first..last - 1 are next to be read: a hint to read them ahead, in one sequential go."""

    def close(self) -> None:
        """Release threads, files and memory; may be called twice."""


def open_backend(
    name: str,
    path: Path | str,
    workers: int = 1,
    *,
    device: torch.device | str = "cpu",
    keep: Keep = "auto",
    on_bad_image: Literal["stop", "replace"] = "stop",
) -> Backend:
    """Open a dataset: a .beton file, shards of one, a folder of tar shards; for `folder` an image folder.

    Args:
        workers, device, keep: see BackendOptions.
        on_bad_image: stop: ImageError. replace: see backends/replace.py.

    Raises:
        UserError: unknown backend, one whose package or hardware is missing, or a dataset that it cannot read.
    """
    if name not in _HOME:
        raise UserError(f"unknown data backend {name!r}: choose from {', '.join(_HOME)}")
    module, cls = _HOME[name].split(":")
    options = BackendOptions(workers, torch.device(device), keep)
    backend = getattr(importlib.import_module(f"fastvarcon.data.backends.{module}"), cls)(Path(path), options)
    if on_bad_image == "stop":
        return backend
    from fastvarcon.data.backends.replace import ReplaceBadImages

    return ReplaceBadImages(backend)
