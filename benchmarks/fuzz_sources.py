"""Feeds damaged data sets to conversion: whatever the files hold, it refuses with one line or gives out images.

    python benchmarks/fuzz_sources.py --n 40000 --seed 0

Every kind of source in small: image files of many formats, CIFAR batches, IDX, Parquet, WebDataset shards of three tar
formats and our own, one tar per class. Damaged are bytes, names and links. Every mutant is opened as `convert` opens
it, and each image encoded, in a process whose memory is limited: see fuzz_reader.py. A message must name something, be
one line when it is printed, and give a reason.
"""

from __future__ import annotations

import gzip
import io
import json
import os
import pickle
import random
import re
import struct
import tarfile
from pathlib import Path

import fuzz_reader
import numpy as np
from fuzz_mutants import Dataset, damage, pictures, tar_folder
from PIL import Image

from fastvarcon.data.class_names import check_names
from fastvarcon.data.decode import ImageError
from fastvarcon.data_prep.encode import EncodeSettings, encode
from fastvarcon.data_prep.sources import open_source
from fastvarcon.errors import UserError
from fastvarcon.visible import visible

PACKAGES = ("fastvarcon", "numpy", "pillow", "simplejpeg", "pyarrow")
CLASSES = ["ant", "bee", "cat"]
MEMORY = 768 << 20  # bytes; Pillow takes images of 180 million pixels, and pyarrow its threads
SETTINGS = [EncodeSettings(), EncodeSettings("keep"), EncodeSettings("keep", check="decode"), EncodeSettings("raw")]
LINK = b"link to "
"""A file that begins so is stored as a link."""
HEAD = 600  # bytes at either end of a file that are damaged more often: tables are there
NO_REASON = re.compile(r" \(\s*(None)?\)|: *$")


# ---- seeds -----------------------------------------------------------------------------------------------------------


def picture(index: int, mode: str = "RGB") -> Image.Image:
    pixels = np.add.outer(np.arange(12 + index) * 7, np.arange(20) * 3 + index).astype(np.uint8)
    return Image.fromarray(pixels).convert(mode)


def encoded(index: int, form: str, mode: str = "RGB", **options) -> bytes:
    stream = io.BytesIO()
    picture(index, mode).save(stream, form, **options)
    return stream.getvalue()


def image_folder() -> Dataset:
    exif = Image.Exif()
    exif[0x0112] = 6  # rotated
    files = {
        "0.jpg": encoded(0, "JPEG"),
        "1.jpg": encoded(1, "JPEG", progressive=True, exif=exif),
        "2.jpg": encoded(2, "JPEG", "CMYK"),
        "3.png": encoded(3, "PNG", "RGBA"),
        "4.png": encoded(4, "PNG", "P", optimize=True),
        "5.png": encoded(5, "PNG", "I;16") if "I;16" in Image.MODES else encoded(5, "PNG", "1"),
        "6.gif": encoded(6, "GIF", "P"),
        "7.bmp": encoded(7, "BMP"),
        "8.webp": encoded(8, "WEBP"),
        "9.tif": encoded(9, "TIFF", compression="tiff_lzw"),
        "10.tif": encoded(10, "TIFF", "L", compression="tiff_deflate"),
        "11.ppm": encoded(11, "PPM"),
    }
    return {f"data/{CLASSES[index % 3]}/{name}": content for index, (name, content) in enumerate(files.items())}


def cifar(protocol: int) -> Dataset:
    data = np.arange(4 * 3072, dtype=np.uint32).astype(np.uint8).reshape(4, 3072)
    batch = {b"data": data, b"fine_labels": [0, 1, 2, 1], b"filenames": [b"a.png"] * 4}
    content = pickle.dumps(batch, protocol=protocol)
    meta = pickle.dumps({b"fine_label_names": [name.encode() for name in CLASSES]}, protocol=protocol)
    return {"data/train": content, "data/test": content, "data/meta": meta}


def idx(packed: bool, colour: bool) -> Dataset:
    shape = (5, 4, 6, 3) if colour else (5, 4, 6)
    header = bytes([0, 0, 8, len(shape)]) + struct.pack(f">{len(shape)}I", *shape)
    images = header + bytes(range(256))[: 5 * 4 * 6] * (3 if colour else 1)
    labels = bytes([0, 0, 8, 1]) + struct.pack(">I", 5) + bytes([0, 1, 2, 0, 1])
    kind, end = (f"idx{len(shape)}", ".gz" * packed)
    pack = gzip.compress if packed else bytes
    return {f"data/train-images-{kind}-ubyte{end}": pack(images), f"data/train-labels-idx1-ubyte{end}": pack(labels)}


def parquet(compression: str, named: bool) -> Dataset:
    import pyarrow as pa
    import pyarrow.parquet as pq

    images = [encoded(index, "JPEG") for index in range(6)]
    rows = pa.array([{"bytes": image, "path": "x.jpg"} for image in images])
    table = pa.table({"image": rows, "label": [0, 1, 2, 0, 1, 2] if named else [CLASSES[i % 3] for i in range(6)]})
    features = {"label": {"names": CLASSES, "_type": "ClassLabel"}} if named else {}
    table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    stream = io.BytesIO()
    pq.write_table(table, stream, row_group_size=4, compression=compression)
    return {"data/train-00000-of-00001.parquet": stream.getvalue()}


def tar(members: dict[str, bytes], form: int) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=form) as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return stream.getvalue()[: -tarfile.RECORDSIZE // 2] if len(stream.getvalue()) > 30_000 else stream.getvalue()


def webdataset(form: int, label: str) -> Dataset:
    long = "x" * (40 if form == tarfile.USTAR_FORMAT else 140)
    members = {}
    for index in range(4):
        text = b"%d" % (index % 3) if label == "cls" else json.dumps({"label": index % 3}).encode()
        members |= {f"{long}/ü{index}.png": encoded(index, "PNG"), f"{long}/ü{index}.{label}": text}
    return {"data/a-0.tar": tar(members, form), "data/classes.txt": "\n".join(CLASSES).encode()}


def class_tars() -> Dataset:
    files = [{f"./{index}.jpg": encoded(index, "JPEG") for index in range(count)} for count in (2, 1, 3)]
    return {f"data/{name}.tar": tar(members, tarfile.GNU_FORMAT) for name, members in zip(CLASSES, files, strict=True)}


def make_seeds() -> dict[str, Dataset]:
    return {
        "folder": image_folder(),
        "links": {**image_folder(), "data/bee/l.jpg": LINK + b"../ant/0.jpg", "data/cat/x.jpg": LINK + b"8.webp"},
        "cifar-2": cifar(2),
        "cifar-4": cifar(4),
        "idx": idx(packed=False, colour=False),
        "idx-gz": idx(packed=True, colour=True),
        "parquet-snappy": parquet("snappy", named=True),
        "parquet-zstd": parquet("zstd", named=False),
        "webdataset-ustar": webdataset(tarfile.USTAR_FORMAT, "cls"),
        "webdataset-gnu": webdataset(tarfile.GNU_FORMAT, "json"),
        "webdataset-pax": webdataset(tarfile.PAX_FORMAT, "cls"),
        "ours": {f"data/{name}": content for name, content in tar_folder(pictures(5, "jg")).items()},
        "class-tars": class_tars(),
    }


# ---- mutants ---------------------------------------------------------------------------------------------------------

ODD = ("\n", "\x1b[31m", "\udcff", "e\u0301", "\u202e", "\u3000", " ", ".", "train", "x" * 200)
TARGETS = (b"..", b"../..", b"/nowhere", b".", b"../ant", b"../../data", b"/dev/zero", b"/dev/null")


class SourceMutants:
    """An endless row of damaged data sets. Mutant i depends on `seed` and i alone."""

    def __init__(self, seed: int):
        self._seeds, self._seed = make_seeds(), seed
        self._others = [content for dataset in self._seeds.values() for content in dataset.values()]

    def __getitem__(self, index: int) -> Dataset:
        rng = random.Random(f"{self._seed}/{index}")
        dataset = dict(self._seeds[rng.choice(list(self._seeds))])
        for _ in range(rng.choice((1, 1, 2))):
            name = rng.choice(list(dataset))
            if rng.random() < 0.1:
                self._rename_or_link(dataset, name, rng)
            elif not dataset[name].startswith(LINK):
                dataset[name] = self._damaged(dataset[name], name, rng)
        return dataset

    def _damaged(self, whole: bytes, name: str, rng: random.Random) -> bytes:
        content = bytearray(whole)
        places = [*range(min(HEAD, len(content))), *range(max(0, len(content) - HEAD), len(content))]
        if name.endswith(".tar"):
            places = [512 * block + at for block in range(len(content) // 512) for at in (*range(124, 136), 156, 345)]
        for _ in range(rng.choice((1, 1, 1, 2, 3, 6))):
            damage(content, places, self._others, rng)
        if name.endswith(".tar") and rng.random() < 0.7:  # a header is believed when its sum fits
            for block in range(0, len(content) - 511, 512):
                total = sum(content[block : block + 512]) - sum(content[block + 148 : block + 156]) + 8 * 32
                if content[block + 257 : block + 262] == b"ustar":
                    content[block + 148 : block + 156] = b"%06o\0 " % total
        return bytes(content)

    def _rename_or_link(self, dataset: Dataset, name: str, rng: random.Random) -> None:
        parts = name.split("/")
        place = rng.randrange(1, len(parts))
        if rng.random() < 0.3:
            at = [*parts[:place], rng.choice(("link", "link.jpg", "a.tar", parts[place]))]
            dataset["/".join(at)] = LINK + rng.choice(TARGETS)
            return
        at = rng.randrange(len(parts[place]) + 1)
        parts[place] = parts[place][:at] + rng.choice(ODD) + parts[place][at:]
        dataset["/".join(parts)] = dataset.pop(name)


# ---- reading ---------------------------------------------------------------------------------------------------------


def store(dataset: Dataset, folder: Path) -> Path:
    """Returns what a user would name. Where a link is in the way of a folder, what lies below it is left out."""
    for name, content in dataset.items():
        path = folder / os.fsencode(name).decode(errors="surrogateescape")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if not path.parent.resolve().is_relative_to(folder.resolve()):
                continue
            if content.startswith(LINK):
                path.symlink_to(os.fsdecode(content[len(LINK) :]))
            else:
                path.write_bytes(content)
        except OSError:  # a name too long, or a file where a folder should be
            continue
    return folder / "data"


def check(message: str) -> None:
    assert message and "\n" not in visible(message) and not NO_REASON.search(message), message


def read_source(dataset: Dataset, folder: Path) -> str:
    """Open a data set as `convert` does, and encode all of it."""
    root = store(dataset, folder)
    try:
        source = open_source(root, split="train" if (root / "meta").exists() else None)
    except UserError as error:
        check(str(error))
        return "refused"
    assert source.classes == check_names(source.classes, root)
    assert len(source) and ((source.labels >= 0) & (source.labels < len(source.classes))).all()
    whole = True
    for index in range(len(source)):
        key, state = source.key(index), source.state(index)
        assert key and len(state) == 2
        try:
            record = encode(source.read(index), key, SETTINGS[index % len(SETTINGS)])
            assert record.payload and record.height > 0 < record.width
        except ImageError as error:
            check(str(error))
            whole = False
    return "opened" if whole else "refused"


if __name__ == "__main__":
    fuzz_reader.main(read_source, SourceMutants, MEMORY, PACKAGES, __doc__)
