"""One copy of decoded pixels for all processes of a machine, in Linux shared memory, whatever way they end.

A file under /dev/shm named after the dataset. Every user holds a shared lock on it, which the system lets go of when
the process ends, killed or not. The last one to close removes the file; what a killed job left behind is used again by
the next job on the same dataset, or removed by the next one on any.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import mmap
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch

from fastvarcon.data.backends.page_lock import lock, unlock
from fastvarcon.errors import UserError
from fastvarcon.locks import flock

FOLDER = Path("/dev/shm")
PREFIX = "fastvarcon-"
HEADER = 4096  # one page, so that the pixels begin on a page of their own
WHOLE = b"fastvarcon pixels, whole"
NOTES = (HEADER - 64) // 8


class SharedPixels:
    """
    Attributes:
        pixels: flat uint8 host tensor of `num_bytes`, the same memory in every process with the same `identity`.
        notes: [NOTES] int64, shared likewise and zero at first: what the process that fills tells the others.

    Args:
        identity: names the content; a different dataset must have another one.
        pin: page-lock the memory for copies to this process's GPU.

    Raises:
        UserError: no shared memory here, or too little.
    """

    def __init__(self, identity: str, num_bytes: int, pin: bool = False):
        if not FOLDER.is_dir():
            raise UserError(f"there is no {FOLDER} on this system: use --data.keep auto, or --data.backend cpu")
        digest = hashlib.sha256(f"{identity}|{num_bytes}|{os.getuid()}".encode()).hexdigest()[:24]
        self._path = FOLDER / f"{PREFIX}{os.getuid()}-{digest}"
        _remove_unused(keep=self._path)
        self._file = _open_locked(self._path)
        try:
            self._reserve(HEADER + num_bytes)
            self._map = mmap.mmap(self._file.fileno(), HEADER + num_bytes)
            whole = np.frombuffer(self._map, dtype=np.uint8)
            self._header = whole[: len(WHOLE)]
            self.notes = whole[64:HEADER].view(np.int64)
            self.pixels = torch.from_numpy(whole[HEADER:])
            self._pinned = pin and num_bytes > 0
            if self._pinned:
                lock(self.pixels)
        except BaseException:
            self.close()
            raise

    @contextlib.contextmanager
    def filled_by_one(self) -> Iterator[bool]:
        """Enter with True in the one process that has to write the pixels; the others wait until it has, then False."""
        with open(f"{self._path}.lock", "w") as turn:
            flock(turn.fileno(), fcntl.LOCK_EX, FOLDER)  # where there are no locks, each writes the same pixels
            empty = bytes(self._header) != WHOLE
            yield empty
            if empty:
                self._header[:] = np.frombuffer(WHOLE, dtype=np.uint8)

    def close(self) -> None:
        """Leave; the last one removes the memory. May be called twice."""
        if self._file.closed:
            return
        if getattr(self, "_pinned", False):
            unlock(self.pixels)
        for name in ("pixels", "notes", "_header", "_map"):
            self.__dict__.pop(name, None)  # the map goes with its last user
        with contextlib.suppress(BlockingIOError):
            flock(self._file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB, FOLDER)  # others who use it keep their memory
            _unlink(self._path)
        self._file.close()

    def _reserve(self, size: int) -> None:
        have = os.fstat(self._file.fileno()).st_size
        if have == size:
            return
        free = shutil.disk_usage(FOLDER).free
        if size > free:
            raise UserError(
                f"the decoded images take {size / 1e9:.1f} GB, {FOLDER} has {free / 1e9:.1f} GB free: enlarge it "
                "(docker run --shm-size), or use --data.backend cpu"
            )
        os.posix_fallocate(self._file.fileno(), 0, size)  # now, rather than a SIGBUS when the memory runs out


def _open_locked(path: Path) -> BinaryIO:
    """The file, made if need be, under a shared lock; never one that is being removed."""
    while True:
        file = open(path, "a+b")  # noqa: SIM115 (closed by SharedPixels.close)
        flock(file.fileno(), fcntl.LOCK_SH, FOLDER)
        with contextlib.suppress(FileNotFoundError):
            if os.fstat(file.fileno()).st_ino == path.stat().st_ino:
                return file
        file.close()


def _remove_unused(keep: Path) -> None:
    """Remove what killed jobs of this user left."""
    for path in FOLDER.glob(f"{PREFIX}{os.getuid()}-*"):
        if path == keep or path.suffix == ".lock":
            continue
        with contextlib.suppress(OSError), open(path, "rb") as file:
            if flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB, FOLDER):
                _unlink(path)


def _unlink(path: Path) -> None:
    path.unlink(missing_ok=True)
    Path(f"{path}.lock").unlink(missing_ok=True)
