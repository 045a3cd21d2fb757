"""Writes tar shards in the WebDataset convention, with DALI's index. The format: fastvarcon/data/tar_shards.py."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import tarfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np

from fastvarcon.data.beton import JPG
from fastvarcon.data.records import content_hash
from fastvarcon.data.tar_shards import HEAD, INDEX, RECORD, SHARD, TABLE
from fastvarcon.data_prep.path_lock import lock, unlock
from fastvarcon.data_prep.record import Entry, Record
from fastvarcon.errors import UserError, reason

BLOCK = 512  # of the tar format: headers and contents fill whole ones
END = bytes(2 * BLOCK)  # of an archive


def jpeg_name(number: int) -> str:
    return f"{number:09d}.jpg"


def label_name(number: int) -> str:
    return f"{number:09d}.cls"


def member(name: str, content: bytes) -> bytes:
    """One file of a tar archive. Nothing but name and content goes into it: no time, no owner."""
    header = tarfile.TarInfo(name)
    header.size, header.mode = len(content), 0o644
    return b"".join((header.tobuf(tarfile.USTAR_FORMAT), content, bytes(-len(content) % BLOCK)))


def sample_bytes(number: int, jpeg: bytes, label: int) -> bytes:
    return member(jpeg_name(number), jpeg) + member(label_name(number), str(label).encode())


def sample_size(jpeg_size: int) -> int:
    """Bytes of `sample_bytes`: two headers, the JPEG, and one block for the label."""
    return 3 * BLOCK + jpeg_size + -jpeg_size % BLOCK


class TarWriter:
    """Streams records into the folder PATH.partial and gives it its final name when it is whole and on disk.

    The protocol `RecordWriter`: `restore` comes first and once, then `add`s, then one of finish, suspend, discard.
    Where a record lies follows from the sizes of the records before it, so a resumed output is that of one go.

    Args:
        max_samples: an upper bound of the records to come.
        extra: JSON values kept beside the class names.
        shard_size: bytes; a shard ends before it would grow larger, unless one record alone does.

    Raises:
        UserError: the path holds something, cannot be written, or another process is writing it.
    """

    def __init__(self, path: Path, max_samples: int, classes: list[str], extra: dict, shard_size: int):
        self.path = path = path.resolve()  # a link stays a link: its target is filled
        self._head = {"classes": classes, "extra": extra}
        self._shard_size = shard_size
        self._partial = path.with_name(path.name + ".partial")
        self._table = np.zeros(max_samples, dtype=RECORD)
        self._count = 0
        self._file: BinaryIO | None = None  # the shard being written, once `restore` has said how far it goes
        self._shard_sizes = [0]  # bytes of samples in each shard so far; the last one is being written
        if path.exists() and not path.is_dir():
            raise UserError(f"{path} is a file: give the name of the folder of tar shards to write")
        if path.exists() and any(path.iterdir()):
            raise UserError(f"{path} is not empty: remove it or choose another name")
        if not path.parent.is_dir():
            raise UserError(f"the folder {path.parent} does not exist: make it first")
        self._lock = lock(path)
        try:
            self._partial.mkdir(exist_ok=True)
        except OSError as error:
            unlock(self._lock)
            raise UserError(f"{error.filename or path} cannot be written ({reason(error)})") from None

    def __len__(self) -> int:
        return self._count

    def restore(self, entries: Sequence[Entry]) -> int:
        """Take over what an interrupted run left: returns how many of its leading `entries` are whole on disk.

        Everything behind them is cut off.
        """
        for entry in entries:
            shard, start = self._place(sample_size(entry.size))
            if not self._holds(entry, shard, start):
                break
            self._note(shard, start, entry)
        kept = {SHARD.format(shard) for shard in range(len(self._shard_sizes))}
        for file in self._partial.iterdir():
            if file.name not in kept:
                file.unlink()
        for shard, size in enumerate(self._shard_sizes[:-1]):
            os.truncate(self._shard(shard), size)
            self._end_shard(shard)
        self._file = open(self._shard(len(self._shard_sizes) - 1), "ab")  # noqa: SIM115 (closed by finish, suspend or discard)
        self._file.truncate(self._shard_sizes[-1])
        return self._count

    def add(self, record: Record, label: int, hash: int) -> None:
        """Append one record.

        Raises:
            UserError: it is not a JPEG.
        """
        assert self._file is not None, "restore comes first"
        if record.mode != JPG:
            raise UserError("tar shards hold JPEG streams, not raw pixels: convert with --mode jpg or keep")
        sample = sample_bytes(self._count, record.payload, label)
        shard, start = self._place(len(sample))
        if shard == len(self._shard_sizes):
            self._file.close()
            self._end_shard(shard - 1)
            self._file = open(self._shard(shard), "ab")  # noqa: SIM115
        self._file.write(sample)
        self._file.flush()  # to the system: from now on the record outlives this process
        self._note(shard, start, Entry(label, JPG, record.height, record.width, len(record.payload), hash))

    def finish(self) -> None:
        """Write index files and tables, sync, and rename to the final name."""
        assert self._file is not None, "restore comes first"
        self._file.close()
        self._end_shard(len(self._shard_sizes) - 1)
        table = self._table[: self._count]
        for shard in range(len(self._shard_sizes)):
            self._write(INDEX.format(shard), self._index(shard).encode())
        stream = io.BytesIO()
        np.save(stream, table, allow_pickle=False)
        self._write(TABLE, stream.getvalue())
        shards = [{"name": SHARD.format(i), "size": size + len(END)} for i, size in enumerate(self._shard_sizes)]
        head = {**self._head, "num_samples": len(table), "records_crc32": zlib.crc32(table.data), "shards": shards}
        self._write(HEAD, json.dumps(head, ensure_ascii=False).encode())
        os.replace(self._partial, self.path)
        unlock(self._lock)

    def suspend(self) -> None:
        """Close, and leave the partial folder for a later `restore`. May be called twice; nothing behind `finish`."""
        if self._lock.is_locked:
            self._close()
            unlock(self._lock)

    def discard(self) -> None:
        """Forget everything: nothing is left. May be called twice; nothing behind `finish`."""
        if self._lock.is_locked:
            self._close()
            try:
                shutil.rmtree(self._partial)
            finally:
                unlock(self._lock)

    def _place(self, size: int) -> tuple[int, int]:
        """Shard and byte at which the next sample, of `size` bytes, starts."""
        last = self._shard_sizes[-1]
        if last and last + size + len(END) > self._shard_size:
            return len(self._shard_sizes), 0
        return len(self._shard_sizes) - 1, last

    def _note(self, shard: int, start: int, entry: Entry) -> None:
        pointer = start + BLOCK
        self._table[self._count] = (shard, entry.height, entry.width, pointer, entry.size, entry.label, entry.hash)
        self._count += 1
        if shard == len(self._shard_sizes):
            self._shard_sizes.append(0)
        self._shard_sizes[shard] = start + sample_size(entry.size)

    def _holds(self, entry: Entry, shard: int, start: int) -> bool:
        """Whether the next sample lies there, whole and as `entry` describes it."""
        try:
            with open(self._shard(shard), "rb") as file:
                file.seek(start)
                found = file.read(sample_size(entry.size))
        except FileNotFoundError:
            return False
        jpeg = found[BLOCK : BLOCK + entry.size]
        return found == sample_bytes(self._count, jpeg, entry.label) and content_hash(jpeg) == entry.hash

    def _shard(self, number: int) -> Path:
        return self._partial / SHARD.format(number)

    def _end_shard(self, number: int) -> None:
        with open(self._shard(number), "ab") as file:
            file.write(END)
            _sync(file)

    def _index(self, shard: int) -> str:
        """What DALI's wds2idx makes of a shard: extension, start, size and name of every member, a line a sample."""
        (numbers,) = np.nonzero(self._table["shard"][: self._count] == shard)
        lines = [f"v1.2 {len(numbers)}\n"]
        for number in numbers.tolist():
            start, size = int(self._table["pointer"][number]), int(self._table["size"][number])
            label = str(int(self._table["label"][number]))
            label_start = start + sample_size(size) - 2 * BLOCK
            lines.append(
                f"jpg {start} {size} {jpeg_name(number)} cls {label_start} {len(label)} {label_name(number)}\n"
            )
        return "".join(lines)

    def _write(self, name: str, content: bytes) -> None:
        with open(self._partial / name, "wb") as file:
            file.write(content)
            _sync(file)

    def _close(self) -> None:
        with contextlib.suppress(OSError):  # closing flushes, and the disk may be full
            if self._file is not None:
                self._file.close()


def _sync(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())
