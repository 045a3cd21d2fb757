"""Records: a dataset as it lies on disk, one encoded image per sample, whatever the files that hold them.

A .beton file, several of them that are shards of one dataset, and a folder of tar shards all look the same to a
backend: tables of labels and sizes in memory, and the bytes of record i on request.
"""

from __future__ import annotations

import glob
import hashlib
from pathlib import Path
from typing import Protocol

import numpy as np

from fastvarcon.data.beton import Beton
from fastvarcon.errors import UserError

TAR_TABLE = "records.npy"
"""The table of a folder of tar shards that `fastvarcon convert --format tar` wrote."""


class Records(Protocol):
    """What a backend asks of stored images. All tables have been checked against the files when this exists."""

    classes: list[str]
    labels: np.ndarray
    """[n] int64, index into classes; negative = unlabelled."""
    heights: np.ndarray
    """[n] int32, pixels."""
    widths: np.ndarray
    """[n] int32, pixels."""
    modes: np.ndarray
    """[n] uint8, beton.JPG or beton.RAW."""
    sizes: np.ndarray
    """[n] int64, bytes of each record."""
    hashes: np.ndarray | None
    """[n] uint64, `content_hash` of each record when it was written; None for files of other writers."""
    extra: dict
    """What the converter recorded about itself; empty for files of other writers."""

    @property
    def fingerprint(self) -> str:
        """Changes when a file is replaced."""

    def __len__(self) -> int: ...

    def record(self, index: int) -> memoryview:
        """The stored bytes, without a copy: a JPEG stream, or height x width x 3 raw bytes. Valid until `close`."""

    def name(self, index: int) -> str:
        """How to name a record in a message."""

    def will_need(self, first: int, last: int) -> None:
        """Ask the system to read records first..last - 1 ahead, in one sequential go."""

    def close(self) -> None:
        """Give the files back. May be called twice; nothing may be read afterwards."""


def content_hash(record: bytes | memoryview) -> int:
    """64 bits of BLAKE2b: tells damaged or repeated records, not a defence against forgery."""
    return int.from_bytes(hashlib.blake2b(record, digest_size=8).digest(), "little")


def open_records(path: Path | str) -> Records:
    """Open a .beton file, a folder or pattern of .beton shards ("train-*.beton"), or a folder of tar shards.

    Raises:
        UserError: nothing there, or files that are damaged or do not belong together.
    """
    path = Path(path)
    if path.is_dir():
        shards = sorted(path.glob("*.beton"))
        if (path / TAR_TABLE).exists() or any(path.glob("shard-*.tar")):
            from fastvarcon.data.tar_shards import TarShards

            if shards:
                raise UserError(f"{path} holds tar shards and {shards[0].name}: keep them in folders of their own")
            return TarShards(path)
        if not shards:
            return Beton(path)  # says what to do with a folder of images
        return _beton_set(shards, all_of_folder=True)
    if glob.has_magic(str(path)) and not path.exists():
        shards = sorted(map(Path, glob.glob(str(path))))
        if not shards:
            raise UserError(f"no file matches {path}: give a .beton file, or a pattern of its shards")
        return _beton_set(shards)
    return Beton(path)


def _beton_set(paths: list[Path], all_of_folder: bool = False) -> Records:
    from fastvarcon.data.beton_set import BetonSet

    return BetonSet(paths, all_of_folder=all_of_folder)
