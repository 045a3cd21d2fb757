"""Writes .beton files that our reader and the ffcv package read. The format: fastvarcon/data/beton.py."""

from __future__ import annotations

import contextlib
import json
import os
import zlib
from pathlib import Path

import filelock
import numpy as np

from fastvarcon.data import beton
from fastvarcon.errors import UserError

MIN_PAGE_SIZE = 1 << 21  # ffcv's minimum
MAX_PAGE_SIZE = 1 << 31  # the largest power of two in the header's 32 bits
MAX_SIDE = 65_535  # width and height have 16 bits


class BetonWriter:
    """Streams records into PATH.partial and gives it its final name when it is whole and on disk.

    A context manager: an exception inside removes the partial file. Another writer of the same path is refused.

    Args:
        max_samples: an upper bound of the records to come; the sample table lies before the data.
        extra: JSON values kept in the file beside the class names.

    Raises:
        UserError: the path cannot be written, or another process is writing it.
    """

    def __init__(self, path: Path, max_samples: int, classes: list[str], extra: dict | None = None):
        self.path = path = path.resolve()  # a link stays a link: its target is replaced
        self.extra = {"classes": classes, **(extra or {})}
        self._partial = path.with_name(path.name + ".partial")
        self._page_size = MIN_PAGE_SIZE
        self._samples = np.zeros(max_samples, dtype=beton.sample_dtype([beton.IMAGE, np.dtype("<i8")]))
        self._allocations = np.zeros(max_samples, dtype=beton.ALLOCATION)
        self._count = 0
        if path.is_dir():
            raise UserError(f"{path} is a folder: give the name of the .beton file to write")
        if path.exists() and not path.is_file():
            raise UserError(f"{path} is not a regular file: give the name of the .beton file to write")
        if not path.parent.is_dir():
            raise UserError(f"the folder {path.parent} does not exist: make it first")
        self._lock = filelock.FileLock(path.with_name(path.name + ".lock"))
        try:
            self._lock.acquire(timeout=0)
            self._file = open(self._partial, "wb")  # noqa: SIM115 (closed by finish or abort)
        except filelock.Timeout:
            raise UserError(f"{path} is being written by another process: wait for it or choose another name") from None
        except OSError as error:
            self._release()
            raise UserError(f"{path} cannot be written ({error.strerror or error})") from None
        data_start = beton.HEADER.itemsize + 2 * beton.FIELD.itemsize + self._samples.nbytes
        self._position = -(-data_start // self._page_size) * self._page_size

    def __len__(self) -> int:
        return self._count

    def add(self, record: bytes, *, mode: int, height: int, width: int, label: int) -> None:
        """Append one record: a JPEG stream (beton.JPG) or height x width x 3 raw bytes (beton.RAW)."""
        self._make_room(len(record))
        self._file.seek(self._position)
        self._file.write(record)
        self._samples[self._count] = ((mode, width, height, self._position), label)
        self._allocations[self._count] = (self._count, self._position, len(record))
        self._position += len(record)
        self._count += 1

    def finish(self) -> None:
        """Write the tables, sync, and rename to the final name."""
        block = json.dumps({"num_samples": self._count, **self.extra}, ensure_ascii=False).encode()
        extra_start = self._position
        self._file.seek(extra_start)
        self._file.write(block)
        allocations_start = self._file.tell()
        self._file.write(self._allocations[: self._count].tobytes())
        header = np.zeros(1, dtype=beton.HEADER)
        header[0] = (beton.VERSION, 2, self._page_size, self._count, allocations_start)
        self._file.seek(0)
        self._file.write(
            header.tobytes() + self._fields(extra_start, block).tobytes() + self._samples[: self._count].tobytes()
        )
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        os.replace(self._partial, self.path)
        self._release()

    def abort(self) -> None:
        """Forget everything: no file is left. May be called twice."""
        with contextlib.suppress(OSError):  # closing flushes, and the disk may be full
            self._file.close()
        if self._lock.is_locked:
            self._partial.unlink(missing_ok=True)
            self._release()

    def __enter__(self) -> BetonWriter:
        return self

    def __exit__(self, kind, *_) -> None:
        try:
            if kind is None:
                self.finish()
        finally:
            self.abort()  # does nothing behind a `finish` that succeeded

    def _make_room(self, size: int) -> None:
        """Advance to the next page if the record would cross a page boundary, after growing the pages to hold it.

        Growing is safe at any time: what does not cross a boundary does not cross one of a doubled page size either.
        """
        while size > self._page_size:
            self._page_size *= 2
        if self._page_size > MAX_PAGE_SIZE:
            raise UserError(
                f"a record of {size} bytes is larger than the .beton format allows ({MAX_PAGE_SIZE}): "
                "use --max-resolution"
            )
        if self._position // self._page_size != (self._position + size - 1) // self._page_size:
            self._position = -(-self._position // self._page_size) * self._page_size

    def _fields(self, extra_start: int, block: bytes) -> np.ndarray:
        fields = np.zeros(2, dtype=beton.FIELD)
        for field, type_id, name in ((fields[0], beton.IMAGE_FIELD, b"image"), (fields[1], beton.INT_FIELD, b"label")):
            field["type_id"] = type_id
            field["name"][: len(name)] = np.frombuffer(name, dtype=np.uint8)
        entry = np.array([(beton.EXTRA_MAGIC, extra_start, len(block), zlib.crc32(block))], dtype=beton.EXTRA)
        fields[0]["arguments"][: beton.EXTRA.itemsize] = entry.view(np.uint8)
        return fields

    def _release(self) -> None:
        with contextlib.suppress(OSError):  # Windows keeps open files
            Path(self._lock.lock_file).unlink()  # before the release: behind it, the file may be another writer's
        self._lock.release()
