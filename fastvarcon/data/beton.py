"""The .beton format of FFCV (version 2), and a reader that needs no ffcv.

Layout, all little-endian (facts from ffcv 1.0: types.py, writer.py, fields/):

    header      24 B      version, number of fields, page size, number of samples, pointer to the allocation table
    fields      1041 B x  type id, name, 1024 bytes of arguments; ours are `image` (type 2) and `label` (type 1)
    samples     24 B x    per sample: mode (0 jpg, 1 raw), width, height, pointer; label (C-aligned as numpy aligns it)
    data                  records; none crosses a boundary of the page size, counted from the start of the file
    hashes      8 B x     ours: 64-bit content hash of every record
    extra                 ours: JSON with the class names and the place of the hashes; found through the image field's
                          arguments, which ffcv ignores
    allocations 24 B x    sample id, pointer, size of every record, up to the end of the file

Every offset and size is checked against the file before it is used.
"""

from __future__ import annotations

import json
import mmap
import zlib
from pathlib import Path

import numpy as np

from fastvarcon.data.class_names import names_in_file
from fastvarcon.data.mapped_file import map_file
from fastvarcon.errors import UserError, reason

VERSION = 2
JPG, RAW = 0, 1
MODE_NAMES = {JPG: "jpg", RAW: "raw"}

HEADER = np.dtype(
    [("version", "<u2"), ("num_fields", "<u2"), ("page_size", "<u4"), ("num_samples", "<u8"), ("allocations", "<u8")],
    align=True,
)
FIELD = np.dtype([("type_id", "<u1"), ("name", "<u1", 16), ("arguments", "<u1", 1024)], align=True)
ALLOCATION = np.dtype([("sample_id", "<u8"), ("pointer", "<u8"), ("size", "<u8")])
IMAGE = np.dtype([("mode", "<u1"), ("width", "<u2"), ("height", "<u2"), ("pointer", "<u8")])
EXTRA = np.dtype([("magic", "S8"), ("pointer", "<u8"), ("size", "<u8"), ("crc32", "<u4")])
EXTRA_MAGIC = b"FASTVCON"

INT_FIELD, IMAGE_FIELD = 1, 2
_BYTES = np.dtype([("pointer", "<u8"), ("size", "<u8")])
FIELD_DTYPES = {
    0: np.dtype("<f8"),
    INT_FIELD: np.dtype("<i8"),
    IMAGE_FIELD: IMAGE,
    3: _BYTES,
    4: np.dtype("<u8"),
    5: _BYTES,
    6: np.dtype("<u8"),
}  # float, int, image, bytes, ndarray, json, tensor
MAX_FIELDS = 64
UNLABELLED = -1
MAX_UNNAMED_CLASSES = 1_000_000  # a file without class names and a larger label is taken for damaged
MAX_JPEG_PIXELS_PER_BYTE = 1024
"""More than any Huffman-coded JPEG holds: every 8x8 block of a component costs at least one bit, and a unit of h x v
blocks has at least h + v of them, as some component is sampled h times across and some v times down; h and v are at
most 4. So a damaged table cannot make a backend ask for more than some thousand times the size of the file."""


class BetonError(UserError):
    """The file is not a whole .beton file that this reader understands."""


def sample_dtype(field_dtypes: list[np.dtype]) -> np.dtype:
    """Type of one entry of the sample table."""
    return np.dtype([(f"f{i}", dtype) for i, dtype in enumerate(field_dtypes)], align=True)


def beyond_jpeg(heights: np.ndarray, widths: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """[n] bool: no JPEG of so many bytes has so many pixels."""
    return heights.astype(np.int64) * widths > sizes.astype(np.int64) * MAX_JPEG_PIXELS_PER_BYTE


class Beton:
    """Memory-mapped, read-only .beton file.

    A file that is cut short while it is mapped ends the process with SIGBUS: see bus_error.py.

    Attributes:
        labels: [n] int64; UNLABELLED (-1) where there is none.
        widths, heights: [n] int32, pixels.
        modes: [n] uint8, JPG or RAW.
        sizes: [n] int64, bytes of each stored record.
        hashes: [n] uint64, content hash of each record as it was written; None in files written by ffcv.
        classes: class names, index = label.
        extra: what the converter recorded about itself; empty for files written by ffcv.

    Raises:
        BetonError: missing, truncated, foreign or inconsistent file.
    """

    def __init__(self, path: Path | str):
        self.path = Path(path)
        if self.path.is_fifo():
            raise BetonError(f"{self.path} is a pipe: name a .beton file")  # opening it would wait for ever
        try:
            self._map: mmap.mmap | None = map_file(self.path)
        except UserError:  # too many are open
            raise
        except FileNotFoundError:
            raise BetonError(
                f"{self.path} does not exist: make it with `fastvarcon convert IMAGE_FOLDER {self.path}`"
            ) from None
        except IsADirectoryError:
            raise BetonError(
                f"{self.path} is a folder: convert it with `fastvarcon convert {self.path} OUT.beton`, "
                "or read it directly with --data.backend folder"
            ) from None
        except OSError as error:
            raise BetonError(f"{self.path} cannot be read ({reason(error)})") from None
        except ValueError:
            raise BetonError(f"{self.path} is not a .beton file: it is empty") from None
        self._bytes = np.frombuffer(self._map, dtype=np.uint8)
        self._read_header()
        self._read_samples()
        self._read_allocations()
        self._read_extra()
        self._read_hashes()
        self._check_labels()

    def __len__(self) -> int:
        return self._num_samples

    @property
    def fingerprint(self) -> str:
        """Changes when the file is replaced."""
        status = self.path.stat()
        return f"{self.path.resolve()}:{status.st_size}:{status.st_mtime_ns}"

    def record(self, index: int) -> memoryview:
        """The stored bytes of one image, without a copy: a JPEG stream, or height x width x 3 raw bytes."""
        start = int(self._pointers[index])
        return self._bytes[start : start + int(self.sizes[index])].data

    def name(self, index: int) -> str:
        """How to name a record in a message."""
        return f"{self.path} record {index}"

    def pointer(self, index: int) -> int:
        """Byte of the file at which a record starts."""
        return int(self._pointers[index])

    def will_need(self, first: int, last: int) -> None:
        """Ask the system to read records first..last - 1 ahead, in one sequential go."""
        starts = self._pointers[first:last]
        if self._map is not None and len(starts) and hasattr(mmap, "MADV_WILLNEED"):
            ends = starts + self.sizes[first:last].astype(np.uint64)
            start = int(starts.min()) // mmap.PAGESIZE * mmap.PAGESIZE
            self._map.madvise(mmap.MADV_WILLNEED, start, int(ends.max()) - start)

    def close(self) -> None:
        """Unmap the file, as soon as no record of it is held. May be called twice."""
        self._map, self._bytes = None, np.empty(0, dtype=np.uint8)

    # ---- reading, in file order ------------------------------------------------------------------------------------

    def _fail(self, what: str) -> BetonError:
        return BetonError(f"{self.path} is not a whole .beton file ({what}): convert the images again")

    def _table(self, what: str, dtype: np.dtype, count: int, start: int) -> np.ndarray:
        """`count` entries at byte `start`, or BetonError if they do not lie within the file."""
        end = start + count * dtype.itemsize  # Python integers: no overflow whatever the header says
        if start < 0 or end > self._bytes.size:
            raise self._fail(f"{what} reaches byte {end} of {self._bytes.size}")
        return self._bytes[start:end].view(dtype)

    def _read_header(self) -> None:
        header = self._table("the header", HEADER, 1, 0)[0]
        if int(header["version"]) != VERSION:
            raise BetonError(f"{self.path} is not a .beton file of version {VERSION}: convert the images again")
        self.page_size = int(header["page_size"])
        self._num_samples = int(header["num_samples"])
        self._allocations_start = int(header["allocations"])
        num_fields = int(header["num_fields"])
        if not 1 <= num_fields <= MAX_FIELDS:
            raise self._fail(f"{num_fields} fields")
        if self._num_samples == 0:
            raise self._fail("it holds no samples")
        self._fields = self._table("the field list", FIELD, num_fields, HEADER.itemsize).copy()

    def _read_samples(self) -> None:
        types = [int(t) for t in self._fields["type_id"]]
        unknown = [t for t in types if t not in FIELD_DTYPES]
        if unknown:
            raise BetonError(
                f"{self.path} has a custom field (type {unknown[0]}), whose layout only its writer knows: "
                "convert the images again with `fastvarcon convert`"
            )
        if IMAGE_FIELD not in types or INT_FIELD not in types:
            raise BetonError(
                f"{self.path} needs an RGB image field and an integer label field, has field types {types}"
            )
        start = HEADER.itemsize + self._fields.nbytes
        table = self._table(
            "the sample table", sample_dtype([FIELD_DTYPES[t] for t in types]), self._num_samples, start
        )
        self._data_start = start + table.nbytes
        self._image_field = types.index(IMAGE_FIELD)
        image = table[f"f{self._image_field}"]
        self.labels = table[f"f{self._label_field(types)}"].astype(np.int64)
        self.widths = image["width"].astype(np.int32)
        self.heights = image["height"].astype(np.int32)
        self.modes = image["mode"].copy()
        self._pointers = image["pointer"].copy()
        self._require((self.modes == JPG) | (self.modes == RAW), "an unknown image mode")
        self._require((self.widths > 0) & (self.heights > 0), "an image without pixels")

    def _label_field(self, types: list[int]) -> int:
        """The integer field named `label`, else the first integer field."""
        names = [bytes(name).split(b"\0")[0] for name in self._fields["name"]]
        integers = [i for i, t in enumerate(types) if t == INT_FIELD]
        return next((i for i in integers if names[i] == b"label"), integers[0])

    def _read_allocations(self) -> None:
        start = self._allocations_start
        if not self._data_start <= start <= self._bytes.size:
            raise self._fail(f"the allocation table would start at byte {start} of {self._bytes.size}")
        count = (self._bytes.size - start) // ALLOCATION.itemsize
        if count > self._num_samples * len(self._fields):  # one for each value at most; bounds the memory taken here
            raise self._fail(f"an allocation table of {count} entries")
        table = self._table("the allocation table", ALLOCATION, count, start)
        order = np.argsort(table["pointer"], kind="stable")
        pointers = np.ascontiguousarray(table["pointer"][order])
        slots = np.searchsorted(pointers, self._pointers)
        self._require(slots < count, "a record that the allocation table lacks")
        self._require(pointers[slots] == self._pointers, "a record that the allocation table lacks")
        sizes = table["size"][order][slots]
        size_limit = np.uint64(self._bytes.size)
        self._require(
            (self._pointers >= self._data_start) & (self._pointers <= size_limit), "a record outside the file"
        )
        self._require((sizes > 0) & (sizes <= size_limit - self._pointers), "a record that ends outside the file")
        self.sizes = sizes.astype(np.int64)
        raw_size = self.widths.astype(np.int64) * self.heights * 3
        self._require((self.modes != RAW) | (self.sizes == raw_size), "a raw record of the wrong size")
        beyond = (self.modes == JPG) & beyond_jpeg(self.heights, self.widths, self.sizes)
        self._require(~beyond, "a JPEG with more pixels than its bytes can hold")

    def _read_extra(self) -> None:
        self.extra: dict = {}
        arguments = self._fields["arguments"][self._image_field][: EXTRA.itemsize].tobytes()
        entry = np.frombuffer(arguments, dtype=EXTRA)[0]
        if entry["magic"] != EXTRA_MAGIC:
            return
        block = self._table("the class list", np.dtype(np.uint8), int(entry["size"]), int(entry["pointer"]))
        if zlib.crc32(block.data) != int(entry["crc32"]):
            raise self._fail("the class list is damaged")
        try:
            self.extra = json.loads(block.tobytes())
            names = names_in_file(self.extra["classes"])
            whole = self.extra.get("num_samples", self._num_samples) == self._num_samples
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise self._fail("the class list is damaged") from None
        if not whole:
            raise self._fail(
                f"it was written with {self.extra['num_samples']} samples, its header says {self._num_samples}"
            )
        shard = self.extra.get("shard", [1, 1])
        if names is None or not (isinstance(shard, list) and [type(part) for part in shard] == [int, int]):
            raise self._fail("the class list is damaged")
        self.extra["classes"] = names

    def _read_hashes(self) -> None:
        self.hashes = None
        if "hashes" not in self.extra:
            return
        place = self.extra["hashes"]
        try:
            start, crc32 = (int(place[key]) for key in ("pointer", "crc32"))
        except (KeyError, TypeError, ValueError, OverflowError):
            raise self._fail("the content hashes are damaged") from None
        table = self._table("the list of content hashes", np.dtype(np.uint8), 8 * self._num_samples, start).tobytes()
        if zlib.crc32(table) != crc32:
            raise self._fail("the content hashes are damaged")
        self.hashes = np.frombuffer(table, dtype="<u8").astype(np.uint64)

    def _check_labels(self) -> None:
        top = int(self.labels.max())
        if "classes" not in self.extra:  # written by ffcv, which keeps no names
            if not UNLABELLED <= top < MAX_UNNAMED_CLASSES:
                raise self._fail(f"label {top}")
            self.classes = [str(label) for label in range(top + 1)]
        else:
            self.classes = self.extra["classes"]
        outside = (self.labels < UNLABELLED) | (self.labels >= len(self.classes))
        if outside.any():
            index = int(outside.argmax())
            raise BetonError(
                f"{self.path} record {index} has label {self.labels[index]}, outside its "
                f"{len(self.classes)} classes: convert the images again"
            )

    def _require(self, holds: np.ndarray, what: str) -> None:
        if not holds.all():
            raise self._fail(f"record {int(np.argmin(holds))} is {what}")
