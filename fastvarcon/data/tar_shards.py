"""Tar shards in the WebDataset convention, written by `fastvarcon convert --format tar`, and their reader.

    shard-000000.tar   members 000000000.jpg, 000000000.cls (the label in ASCII), ...; numbered through all shards
    shard-000000.idx   where they lie, for DALI's webdataset reader
    records.npy        the table RECORD: where every JPEG lies, and what it is
    dataset.json       class names, settings of the conversion, sizes of the shards, CRC-32 of the table

Any reader of WebDataset takes the tar files alone; this one needs the table, and never looks into tar headers.
Every offset and size is checked against the files before it is used.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import zlib
from pathlib import Path

import numpy as np

from fastvarcon.data.beton import JPG, UNLABELLED, beyond_jpeg
from fastvarcon.data.class_names import names_in_file
from fastvarcon.data.mapped_file import map_file
from fastvarcon.data.records import TAR_TABLE
from fastvarcon.errors import UserError, reason

SHARD, INDEX, TABLE, HEAD = "shard-{:06d}.tar", "shard-{:06d}.idx", TAR_TABLE, "dataset.json"
RECORD = np.dtype(
    [
        ("shard", "<u4"),
        ("height", "<u2"),
        ("width", "<u2"),
        ("pointer", "<u8"),  # byte of the shard at which the JPEG starts
        ("size", "<u8"),
        ("label", "<i8"),
        ("hash", "<u8"),
    ]
)


class TarShards:
    """A folder of tar shards behind the interface of `records.Records`, memory-mapped, read-only.

    A shard that is cut short while it is mapped ends the process with SIGBUS: see bus_error.py.

    Attributes:
        extra: what the converter recorded about itself.
        Others: see `records.Records`.

    Raises:
        UserError: a missing, damaged or foreign file; the message names it.
    """

    def __init__(self, path: Path | str):
        self.path = Path(path)
        names, sizes = self._read_head()
        table = self._read_table()
        self._shards = [self._map(name, size) for name, size in zip(names, sizes, strict=True)]
        self._check(table, np.array(sizes, dtype=np.uint64))
        self._shard_of = table["shard"].astype(np.int64)
        self._pointers = table["pointer"].astype(np.int64)
        self.sizes = table["size"].astype(np.int64)
        self.labels = table["label"].astype(np.int64)
        self.heights = table["height"].astype(np.int32)
        self.widths = table["width"].astype(np.int32)
        self.hashes: np.ndarray | None = table["hash"].astype(np.uint64)
        self.modes = np.full(len(table), JPG, dtype=np.uint8)

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def fingerprint(self) -> str:
        files = [*sorted(self.path.glob("shard-*.tar")), self.path / TABLE, self.path / HEAD]
        states = [(file.name, status.st_size, status.st_mtime_ns) for file in files for status in [file.stat()]]
        return hashlib.sha256(repr((str(self.path.resolve()), states)).encode(errors="surrogateescape")).hexdigest()

    def record(self, index: int) -> memoryview:
        start = int(self._pointers[index])
        return memoryview(self._shards[self._shard_of[index]])[start : start + int(self.sizes[index])]

    def name(self, index: int) -> str:
        return f"{self.path / SHARD.format(self._shard_of[index])} record {index}"

    def will_need(self, first: int, last: int) -> None:
        if not hasattr(mmap, "MADV_WILLNEED"):
            return
        shards, starts = self._shard_of[first:last], self._pointers[first:last]
        ends = starts + self.sizes[first:last]
        for shard in np.unique(shards):
            start = int(starts[shards == shard].min()) // mmap.PAGESIZE * mmap.PAGESIZE
            end = int(ends[shards == shard].max())
            self._shards[shard].madvise(mmap.MADV_WILLNEED, start, end - start)

    def close(self) -> None:
        self._shards = []  # unmapped as soon as no record of them is held

    # ---- reading ---------------------------------------------------------------------------------------------------

    def _fail(self, file: str, what: str) -> UserError:
        return UserError(f"{self.path / file} {what}: convert the images again")

    def _read_head(self) -> tuple[list[str], list[int]]:
        """Names and sizes of the shards."""
        try:
            head = json.loads((self.path / HEAD).read_bytes())
            classes, self.extra = names_in_file(head["classes"]), head["extra"]
            self._num_samples, self._table_crc32 = head["num_samples"], head["records_crc32"]
            names = [shard["name"] for shard in head["shards"]]
            sizes = [shard["size"] for shard in head["shards"]]
        except OSError as error:
            raise self._fail(HEAD, f"cannot be read ({reason(error)})") from None
        except (ValueError, KeyError, TypeError, RecursionError):
            raise self._fail(HEAD, "is damaged") from None
        numbered = names == [SHARD.format(number) for number in range(len(names))]
        sized = all(type(size) is int and 0 < size < 1 << 63 for size in sizes)
        if classes is None or not (isinstance(self.extra, dict) and numbered and sized):
            raise self._fail(HEAD, "is damaged")
        self.classes = classes
        return names, sizes

    def _read_table(self) -> np.ndarray:
        try:
            stored = np.lib.format.open_memmap(self.path / TABLE, mode="r")  # refuses pickled objects
            whole = stored.offset + stored.nbytes == (self.path / TABLE).stat().st_size
        except OSError as error:
            raise self._fail(TABLE, f"cannot be read ({reason(error)})") from None
        except Exception:  # numpy raises whatever it meets in a damaged header
            raise self._fail(TABLE, "is damaged") from None
        if stored.dtype != RECORD or stored.shape != (self._num_samples,) or self._num_samples == 0:
            raise self._fail(TABLE, f"does not hold the {self._num_samples} records that {HEAD} says")
        table = np.ascontiguousarray(stored)
        if not whole or zlib.crc32(table.data) != self._table_crc32:
            raise self._fail(TABLE, "is damaged")
        return table

    def _map(self, name: str, size: int) -> mmap.mmap:
        file = self.path / name
        if not file.is_file():
            raise self._fail(name, "is missing")
        try:
            content = map_file(file)
        except UserError:  # too many are open
            raise
        except OSError as error:
            raise self._fail(name, f"cannot be read ({reason(error)})") from None
        except ValueError:
            raise self._fail(name, "is empty") from None
        if len(content) != size:
            raise self._fail(name, f"has {len(content)} bytes, {size} were written")
        return content

    def _check(self, table: np.ndarray, shard_sizes: np.ndarray) -> None:
        def require(holds: np.ndarray, what: str) -> None:
            if not holds.all():
                raise self._fail(TABLE, f"is damaged (record {int(np.argmin(holds))} {what})")

        require(table["shard"] < len(shard_sizes), "is in no shard")
        limit = shard_sizes[table["shard"]]
        require(table["pointer"] <= limit, "starts outside its shard")
        require((table["size"] > 0) & (table["size"] <= limit - table["pointer"]), "ends outside its shard")
        require((table["height"] > 0) & (table["width"] > 0), "has no pixels")
        require(~beyond_jpeg(table["height"], table["width"], table["size"]), "has more pixels than its bytes can hold")
        labels = table["label"]
        require((labels >= UNLABELLED) & (labels < len(self.classes)), f"is of none of the {len(self.classes)} classes")
