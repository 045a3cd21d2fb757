"""Damaged .beton files and tar folders for fuzz_reader.py: whole seeds, and what is done to them.

A dataset is {file name: bytes}. The seeds are tiny, with pages of 4 KiB where the format has 2 MiB, so that thousands
of mutants a second can be written and read; the reader does not look at the page size.
"""

from __future__ import annotations

import importlib.util
import io
import json
import random
import tempfile
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

from fastvarcon.data import beton
from fastvarcon.data.records import content_hash
from fastvarcon.data.tar_shards import RECORD
from fastvarcon.data_prep.record import Record
from fastvarcon.data_prep.tar_writer import TarWriter

Dataset = dict[str, bytes]
PAGE = 4096
CLASSES = ["ant", "bee", "cat"]


# ---- seeds -----------------------------------------------------------------------------------------------------------


def pictures(count: int, modes: str) -> list[Record]:
    """Small images; `modes` is repeated: j = JPEG, g = grey progressive JPEG, r = raw."""
    records = []
    for index in range(count):
        mode = modes[index % len(modes)]
        height, width = 9 + 5 * index, 33 - 2 * index
        pixels = np.add.outer(np.arange(height) * 5, np.arange(width) * 3).astype(np.uint8)
        image = Image.fromarray(pixels).convert("L" if mode == "g" else "RGB")
        stream = io.BytesIO()
        image.save(stream, "JPEG", quality=90, progressive=mode == "g")
        payload = image.tobytes() if mode == "r" else stream.getvalue()
        records.append(Record(payload, beton.RAW if mode == "r" else beton.JPG, height, width))
    return records


def assemble(records: list[Record], hashes: bool, shard: list[int] | None = None, edit=lambda extra: extra) -> bytes:
    """A .beton file as fastvarcon/data/beton.py lays it out. `edit` changes the JSON before its checksum is taken."""
    samples = np.zeros(len(records), dtype=beton.sample_dtype([beton.IMAGE, np.dtype("<i8")]))
    allocations = np.zeros(len(records), dtype=beton.ALLOCATION)
    fields = np.zeros(2, dtype=beton.FIELD)
    fields["type_id"] = beton.IMAGE_FIELD, beton.INT_FIELD
    fields["name"][1, :5] = np.frombuffer(b"label", dtype=np.uint8)
    data_start = -(-(beton.HEADER.itemsize + fields.nbytes + samples.nbytes) // PAGE) * PAGE
    data = bytearray()
    for index, record in enumerate(records):
        if (len(data) % PAGE) + len(record.payload) > PAGE:
            data += bytes(-len(data) % PAGE)
        pointer = data_start + len(data)
        samples[index] = ((record.mode, record.width, record.height, pointer), index % len(CLASSES))
        allocations[index] = index, pointer, len(record.payload)
        data += record.payload
    extra = {"num_samples": len(records), "classes": CLASSES, "quality": 90}
    if hashes:
        table = np.array([content_hash(record.payload) for record in records], dtype="<u8").tobytes()
        extra["hashes"] = {"pointer": data_start + len(data), "crc32": zlib.crc32(table)}
        data += table
    if shard:
        extra["shard"] = shard
    block = json.dumps(edit(extra)).encode()
    entry = np.array(
        [(beton.EXTRA_MAGIC, data_start + len(data), len(block), zlib.crc32(block))], dtype=beton.EXTRA
    ).tobytes()
    fields["arguments"][0, : len(entry)] = np.frombuffer(entry, dtype=np.uint8)
    header = np.zeros(1, dtype=beton.HEADER)
    header[0] = (beton.VERSION, 2, PAGE, len(records), data_start + len(data) + len(block))
    tables = header.tobytes() + fields.tobytes() + samples.tobytes()
    return tables.ljust(data_start, b"\0") + bytes(data) + block + allocations.tobytes()


def tar_folder(records: list[Record]) -> Dataset:
    with tempfile.TemporaryDirectory() as folder:
        writer = TarWriter(Path(folder, "set"), len(records), CLASSES, {"quality": 90}, 6000)
        writer.restore([])
        for index, record in enumerate(records):
            writer.add(record, index % len(CLASSES), content_hash(record.payload))
        writer.finish()
        return {path.name: path.read_bytes() for path in Path(folder, "set").iterdir() if path.suffix != ".idx"}


def ffcv_file(mode: str) -> bytes:
    """A file that the ffcv package wrote, with a third field."""
    import ffcv.writer
    from ffcv.fields import FloatField, IntField, RGBImageField

    items = [(i / 2, np.full((12 + i, 20, 3), 20 * i, np.uint8), i % 3) for i in range(5)]
    fields = {"score": FloatField(), "image": RGBImageField(write_mode=mode), "label": IntField()}
    ffcv.writer.MIN_PAGE_SIZE = PAGE
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "theirs.beton")
        ffcv.writer.DatasetWriter(str(path), fields, page_size=PAGE, num_workers=1).from_indexed_dataset(items)
        return path.read_bytes()


def make_seeds(with_ffcv: bool) -> dict[str, Dataset]:
    seeds = {
        "raw": {"a.beton": assemble(pictures(3, "r"), hashes=False)},
        "jpg": {"a.beton": assemble(pictures(4, "j"), hashes=True)},
        "mixed": {"a.beton": assemble(pictures(5, "jrg"), hashes=True)},
        "pages": {"a.beton": assemble(pictures(12, "rj"), hashes=False)},
        "set": {f"{i}.beton": assemble(pictures(2 + i, "jr"), hashes=True, shard=[i, 2]) for i in (1, 2)},
        "tar": tar_folder(pictures(6, "jg")),
    }
    if with_ffcv:
        seeds.update({f"ffcv-{mode}": {"a.beton": ffcv_file(mode)} for mode in ("raw", "jpg")})
    return seeds


def ffcv_installed() -> bool:
    return importlib.util.find_spec("ffcv") is not None


# ---- where and with what to damage -----------------------------------------------------------------------------------


def _columns(dtype: np.dtype, start: int, count: int) -> list[int]:
    """Byte of every number in a table."""
    if dtype.names is None:
        return [start + row * dtype.itemsize for row in range(count)]
    inner = [at for name in dtype.names for at in _columns(dtype[name].base, start + dtype.fields[name][1], 1)]
    return [at + row * dtype.itemsize for row in range(count) for at in inner]


def structure(name: str, content: bytes) -> list[int]:
    """Bytes at which numbers of the tables start, in a whole file."""
    if name == "records.npy":
        start = 10 + int.from_bytes(content[8:10], "little")  # behind numpy's header
        return [*range(0, 12), *_columns(RECORD, start, (len(content) - start) // RECORD.itemsize)]
    if not name.endswith(".beton"):
        return []
    header = np.frombuffer(content, dtype=beton.HEADER, count=1)[0]
    count, num_fields = int(header["num_samples"]), int(header["num_fields"])
    fields = np.frombuffer(content, dtype=beton.FIELD, count=num_fields, offset=beton.HEADER.itemsize)
    types = [beton.FIELD_DTYPES[int(type_id)] for type_id in fields["type_id"]]
    places = _columns(beton.HEADER, 0, 1)
    for index in range(num_fields):
        start = beton.HEADER.itemsize + index * beton.FIELD.itemsize
        places += [start, start + 1, *_columns(beton.EXTRA, start + beton.FIELD.fields["arguments"][1], 1)]
    places += _columns(beton.sample_dtype(types), beton.HEADER.itemsize + fields.nbytes, count)
    allocations = int(header["allocations"])
    tail = range(max(allocations - 150, 0), allocations)  # class names and hashes
    return places + _columns(beton.ALLOCATION, allocations, count) + list(tail)


def _number(rng: random.Random, length: int) -> bytes:
    """1 to 8 bytes at which something may wrap, overflow, or reach over an end."""
    size = rng.choice((1, 2, 4, 8))
    bits = 8 * size
    value = rng.choice((0, 1, length, length // 2, 1 << rng.randrange(bits), 1 << (bits - 1), rng.getrandbits(bits)))
    return ((value + rng.choice((-24, -8, -1, 0, 0, 1, 8))) % (1 << bits)).to_bytes(size, "little")


def damage(content: bytearray, places: list[int], others: list[bytes], rng: random.Random) -> None:
    """One change, most often within the tables."""
    length = len(content)
    if not length:
        return
    at = min(rng.choice(places) if places and rng.random() < 0.85 else rng.randrange(length), length - 1)
    size = rng.choice((1, 4, 8, 24, rng.randrange(1, 2000)))
    how = rng.choices(
        ("number", "flip", "copy", "splice", "fill", "repeat", "delete", "cut"), (40, 20, 15, 6, 5, 4, 4, 6)
    )[0]
    if how == "number":
        patch = _number(rng, length)
        content[at : at + len(patch)] = patch
    elif how == "flip":
        content[at] ^= 1 << rng.randrange(8)
    elif how == "copy":  # a number of the same file to another place
        source = rng.choice(places) if places else rng.randrange(length)
        content[at : at + 8] = content[source : source + 8]
    elif how == "splice":
        other = rng.choice(others)
        source = rng.randrange(len(other))
        content[at : at + size] = other[source : source + size]
    elif how == "fill":
        content[at : at + size] = rng.choice((b"\0", b"\xff")) * size
    elif how == "repeat":
        content[at:at] = content[at : at + size] * rng.randrange(1, 4)
    elif how == "delete":
        del content[at : at + size]
    else:
        del content[rng.choice((at, rng.randrange(length))) :]


JUNK = (
    None, True, 0, -1, 1.5, float("nan"), float("inf"), 1 << 70, "", "x", "\ud800", "7" * 5000, [], {}, [[]], [1, 1],
    [0, -1], ["a"] * 5000, {"pointer": 0, "crc32": 0}, {"pointer": -8, "crc32": 1 << 40},
    {"name": "../x", "size": 1 << 62},
)  # fmt: skip


def junk_in_json(value: object, rng: random.Random, junk: tuple = JUNK) -> object:
    """The same JSON with one of its values, at any depth, replaced or removed."""
    if not isinstance(value, dict | list) or not value or rng.random() < 0.15:
        return rng.choice(junk)
    value = dict(value) if isinstance(value, dict) else list(value)
    key = rng.choice(list(value) if isinstance(value, dict) else range(len(value)))
    if rng.random() < 0.15:
        del value[key]
    else:
        value[key] = junk_in_json(value[key], rng, junk)
    return value


class Mutants:
    """An endless row of damaged datasets. Mutant i depends on `seed` and i alone."""

    def __init__(self, seeds: dict[str, Dataset], seed: int):
        self._seeds, self._seed = seeds, seed
        self._names = list(seeds)
        self._others = [content for dataset in seeds.values() for content in dataset.values()]
        self._places = {
            (name, file): structure(file, content)
            for name, dataset in seeds.items()
            for file, content in dataset.items()
        }

    def __getitem__(self, index: int) -> Dataset:
        rng = random.Random(f"{self._seed}/{index}")
        if rng.random() < 0.05:  # tables that hold together around JSON that does not
            edited = assemble(pictures(2, "jr"), True, [1, 2], lambda extra: junk_in_json(extra, rng))
            return {"a.beton": edited} if rng.random() < 0.5 else {**self._seeds["set"], "1.beton": edited}
        name = rng.choice(self._names)
        dataset = dict(self._seeds[name])
        file = rng.choice(list(dataset))
        if file == "dataset.json" and rng.random() < 0.7:
            dataset[file] = json.dumps(junk_in_json(json.loads(dataset[file]), rng)).encode()
            return dataset
        content = bytearray(dataset[file])
        for _ in range(rng.choice((1, 1, 1, 2, 3, 6))):
            damage(content, self._places[name, file], self._others, rng)
        dataset[file] = bytes(content)
        if file == "records.npy" and rng.random() < 0.9:  # else the checksum would stop nearly all of them
            head = json.loads(dataset["dataset.json"])
            head["records_crc32"] = zlib.crc32(content[-head["num_samples"] * RECORD.itemsize :])
            dataset["dataset.json"] = json.dumps(head).encode()
        return dataset
