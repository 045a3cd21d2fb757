"""Writes .beton files that our reader and the ffcv package read. The format: fastvarcon/data/beton.py."""

from __future__ import annotations

import contextlib
import json
import os
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fastvarcon.data import beton
from fastvarcon.data.records import content_hash
from fastvarcon.data_prep.path_lock import lock, unlock
from fastvarcon.data_prep.record import Entry, Record
from fastvarcon.errors import UserError, reason

MIN_PAGE_SIZE = 1 << 21  # ffcv's minimum
MAX_PAGE_SIZE = 1 << 31  # the largest power of two in the header's 32 bits


class BetonWriter:
    """Streams records into PATH.partial and gives it its final name when it is whole and on disk.

    The protocol `RecordWriter`. As a context manager it begins a new file, finishes it, and leaves none behind if there
    was an exception.

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
        self._hashes = np.zeros(max_samples, dtype="<u8")
        self._count = 0
        if path.is_dir():
            raise UserError(f"{path} is a folder: give the name of the .beton file to write")
        if path.exists() and not path.is_file():
            raise UserError(f"{path} is not a regular file: give the name of the .beton file to write")
        if not path.parent.is_dir():
            raise UserError(f"the folder {path.parent} does not exist: make it first")
        self._lock = lock(path)
        try:
            self._partial.touch()  # what is there already, `restore` may want
            self._file = open(self._partial, "r+b")  # noqa: SIM115 (closed by finish, suspend or discard)
        except OSError as error:
            unlock(self._lock)
            raise UserError(f"{error.filename or path} cannot be written ({reason(error)})") from None
        tables = beton.HEADER.itemsize + 2 * beton.FIELD.itemsize + self._samples.nbytes
        self._position = -(-tables // self._page_size) * self._page_size

    def __len__(self) -> int:
        return self._count

    def restore(self, entries: Sequence[Entry]) -> int:
        self._file.write(bytes(self._position))  # tables that an interrupted `finish` may have begun
        for entry in entries:
            start, page_size = self._place(entry.size)
            self._file.seek(start)
            if content_hash(self._file.read(entry.size)) != entry.hash:
                break
            self._note(entry, start, page_size)
        self._file.truncate(self._position)
        return self._count

    def add(self, record: Record, label: int, hash: int) -> None:
        entry = Entry(label, record.mode, record.height, record.width, len(record.payload), hash)
        start, page_size = self._place(entry.size)
        self._file.seek(start)
        self._file.write(record.payload)
        self._file.flush()  # to the system: from now on the record outlives this process
        self._note(entry, start, page_size)

    def finish(self) -> None:
        """Write the tables, sync, and rename to the final name."""
        hashes = self._hashes[: self._count].tobytes()
        place = {"pointer": self._position, "crc32": zlib.crc32(hashes)}
        block = json.dumps({"num_samples": self._count, **self.extra, "hashes": place}, ensure_ascii=False).encode()
        extra_start = self._position + len(hashes)
        self._file.seek(self._position)
        self._file.write(hashes + block + self._allocations[: self._count].tobytes())
        header = np.zeros(1, dtype=beton.HEADER)
        header[0] = (beton.VERSION, 2, self._page_size, self._count, extra_start + len(block))
        self._file.seek(0)
        self._file.write(
            header.tobytes() + self._fields(extra_start, block).tobytes() + self._samples[: self._count].tobytes()
        )
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        os.replace(self._partial, self.path)
        unlock(self._lock)

    def suspend(self) -> None:
        if self._lock.is_locked:
            self._close()
            unlock(self._lock)

    def discard(self) -> None:
        if self._lock.is_locked:
            self._close()
            self._partial.unlink(missing_ok=True)
            unlock(self._lock)

    def __enter__(self) -> BetonWriter:
        self.restore([])
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        try:
            if kind is None:
                self.finish()
        finally:
            self.discard()  # does nothing behind a `finish` that succeeded

    def _place(self, size: int) -> tuple[int, int]:
        """Where the next record goes, and the page size then: grown to hold it, and no record crosses a page boundary.

        Growing is safe at any time: what does not cross a boundary does not cross one of a doubled page size either.
        """
        page_size = self._page_size
        while size > page_size:
            page_size *= 2
        if page_size > MAX_PAGE_SIZE:
            raise UserError(
                f"a record of {size} bytes is larger than the .beton format allows ({MAX_PAGE_SIZE}): "
                "use --max-resolution"
            )
        if self._position // page_size != (self._position + size - 1) // page_size:
            return -(-self._position // page_size) * page_size, page_size
        return self._position, page_size

    def _note(self, entry: Entry, start: int, page_size: int) -> None:
        self._samples[self._count] = ((entry.mode, entry.width, entry.height, start), entry.label)
        self._allocations[self._count] = (self._count, start, entry.size)
        self._hashes[self._count] = entry.hash
        self._position, self._page_size = start + entry.size, page_size
        self._count += 1

    def _fields(self, extra_start: int, block: bytes) -> np.ndarray:
        fields = np.zeros(2, dtype=beton.FIELD)
        for field, type_id, name in ((fields[0], beton.IMAGE_FIELD, b"image"), (fields[1], beton.INT_FIELD, b"label")):
            field["type_id"] = type_id
            field["name"][: len(name)] = np.frombuffer(name, dtype=np.uint8)
        entry = np.array([(beton.EXTRA_MAGIC, extra_start, len(block), zlib.crc32(block))], dtype=beton.EXTRA)
        fields[0]["arguments"][: beton.EXTRA.itemsize] = entry.view(np.uint8)
        return fields

    def _close(self) -> None:
        with contextlib.suppress(OSError):  # closing flushes, and the disk may be full
            self._file.close()
