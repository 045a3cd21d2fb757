"""Datasets with JPEGs of every kind, for the backends around foreign decoders."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fastvarcon.data.beton import JPG, RAW
from fastvarcon.data.records import content_hash
from fastvarcon.data_prep.beton_writer import BetonWriter
from fastvarcon.data_prep.record import Record

TURNED = Image.Exif()
TURNED[0x0112] = 6  # records are upright: a decoder must not heed it

KINDS = [
    ("RGB", {"subsampling": "4:4:4"}),
    ("RGB", {"subsampling": "4:2:2"}),
    ("RGB", {"subsampling": "4:2:0"}),
    ("L", {}),
    ("RGB", {"progressive": True}),
    ("RGB", {"exif": TURNED}),
]


def _picture(rng: np.random.Generator, height: int, width: int) -> Image.Image:
    coarse = rng.integers(0, 256, (height // 8 + 2, width // 8 + 2, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def _jpeg(picture: Image.Image, mode: str, **options) -> bytes:
    buffer = io.BytesIO()
    picture.convert(mode).save(buffer, "JPEG", quality=90, **options)
    return buffer.getvalue()


@pytest.fixture(scope="session")
def jpegs() -> list[bytes]:
    """Twelve JPEGs of six kinds, sides from 9 to 89."""
    rng = np.random.default_rng(0)
    sides = rng.integers(9, 90, (12, 2)).tolist()
    return [
        _jpeg(_picture(rng, *side), mode, **options) for side, (mode, options) in zip(sides, 2 * KINDS, strict=True)
    ]


@pytest.fixture(scope="session")
def pixels(jpegs) -> list[np.ndarray]:
    """The twelve as PIL decodes them."""
    return [np.asarray(Image.open(io.BytesIO(jpeg)).convert("RGB")) for jpeg in jpegs]


@pytest.fixture(scope="session")
def write_beton():
    """Write JPEGs (bytes) and raw images (arrays) to a .beton file with the labels 0, 1, 0, 1, ..."""

    def write(path: Path, records: Sequence[bytes | np.ndarray]) -> Path:
        with BetonWriter(path, len(records), ["even", "odd"]) as writer:
            for index, record in enumerate(records):
                if isinstance(record, np.ndarray):
                    (height, width), mode, payload = record.shape[:2], RAW, record.tobytes()
                else:
                    (width, height), mode, payload = Image.open(io.BytesIO(record)).size, JPG, record
                writer.add(Record(payload, mode, height, width), index % 2, content_hash(payload))
        return path

    return write


@pytest.fixture(scope="session")
def beton(tmp_path_factory, write_beton, jpegs) -> Path:
    """The twelve JPEGs."""
    return write_beton(tmp_path_factory.mktemp("jpegs") / "a.beton", jpegs)


@pytest.fixture(scope="session")
def mixed(tmp_path_factory, write_beton, jpegs) -> Path:
    """Raw, JPEG, CMYK JPEG, raw, a JPEG with zero bytes before its end, JPEG."""
    rng = np.random.default_rng(1)
    odd = jpegs[0][:-2] + bytes(8) + jpegs[0][-2:]
    raw = [np.asarray(_picture(rng, *side)) for side in ((20, 30), (8, 9))]
    cmyk = _jpeg(_picture(rng, 24, 16), "CMYK")
    return write_beton(tmp_path_factory.mktemp("mixed") / "a.beton", [raw[0], jpegs[1], cmyk, raw[1], odd, jpegs[2]])


@pytest.fixture(scope="session")
def broken(tmp_path_factory, write_beton, jpegs) -> Path:
    """Six JPEGs; the end of 3 is missing, and 5 is of its class."""
    records = [*jpegs[:3], jpegs[3][:-10], *jpegs[4:6]]
    return write_beton(tmp_path_factory.mktemp("broken") / "a.beton", records)
