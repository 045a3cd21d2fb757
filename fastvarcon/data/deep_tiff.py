"""TIFF with more than 8 bits a sample: grey of 9 to 16 bits, colours of 9 to 15.

PIL reads few of these: 12 bits only where black is zero, 16 bits where white is zero only in one byte order. All that
it lacks are names for them. So it is handed the file with other tags, and reads the samples as bytes, or as grey of 16
bits where black is zero; every compression and layout stays its business.
"""

from __future__ import annotations

import io
import struct
from typing import NamedTuple

import numpy as np
from PIL import Image, TiffImagePlugin

WIDTH, BITS, COMPRESSION, PHOTOMETRIC, ORIENTATION, SAMPLES = 256, 258, 259, 262, 274, 277
PLANAR, PREDICTOR, TILE_WIDTH, SAMPLE_FORMAT = 284, 317, 322, 339
WHITE_IS_ZERO, BLACK_IS_ZERO, RGB = 0, 1, 2
SIGNED = 2
BYTEWISE = {1, 5, 8, 32773, 32946, 50000}
"""Compressions that take samples for bytes: none, LZW, Deflate, PackBits, Deflate, Zstandard."""


class RangeError(ValueError):
    """Values of which the file does not say how bright they are."""


class Samples(NamedTuple):
    values: np.ndarray
    """[h, w] or [h, w, 3], 0 to `limit`; upright unless `info` has an orientation."""
    limit: int
    white_is_zero: bool
    undeclared: bool
    """Whether fewer bits than the 16 of the file may be in use."""
    info: dict
    """As PIL's, with an EXIF block of the orientation."""


class _Tags:
    """The tags of the first image, whose values can be replaced. Those of BigTIFF are not looked for."""

    def __init__(self, data: bytes | memoryview):
        self._data = bytearray(data)
        self._order = "<" if data[:2] == b"II" else ">"
        (start,) = struct.unpack_from(self._order + "I", data, 4)
        (count,) = struct.unpack_from(self._order + "H", data, start)
        self._places = {}
        for at in range(start + 2, start + 2 + 12 * count, 12):
            self._places[struct.unpack_from(self._order + "H", data, at)[0]] = at

    def __getitem__(self, tag: int) -> tuple[int, ...]:
        """Its numbers, short or long; () where it is missing or something else."""
        if tag not in self._places:
            return ()
        at = self._places[tag]
        kind, count = struct.unpack_from(self._order + "HI", self._data, at + 2)
        if kind not in (3, 4) or not 0 < count < 100:
            return ()
        size = count * (2 if kind == 3 else 4)
        place = at + 8 if size <= 4 else struct.unpack_from(self._order + "I", self._data, at + 8)[0]
        return struct.unpack_from(f"{self._order}{count}{'H' if kind == 3 else 'I'}", self._data, place)

    def one(self, tag: int, default: int) -> int:
        return next(iter(self[tag]), default)

    def replace(self, tag: int, value: int) -> None:
        """Where there is such a tag."""
        if tag in self._places:
            struct.pack_into(self._order + "HII", self._data, self._places[tag] + 2, 4, 1, value)

    def opened(self) -> Image.Image:
        image = Image.open(io.BytesIO(bytes(self._data)), formats=(TiffImagePlugin.TiffImageFile.format,))
        image.load()
        return image


def read_samples(data: bytes | memoryview) -> Samples | None:
    """None for anything but such a TIFF. Raises what PIL raises; RangeError for negative samples."""
    if bytes(data[:4]) not in (b"II*\0", b"MM\0*"):
        return None
    try:
        tags = _Tags(data)
        bits, channels, photometric = set(tags[BITS]), tags.one(SAMPLES, 1), tags.one(PHOTOMETRIC, -1)
        layout = tags.one(SAMPLE_FORMAT, 1), tags.one(PLANAR, 1), tags.one(PREDICTOR, 1), tags.one(COMPRESSION, 1)
    except struct.error:
        return None  # PIL says what is wrong
    (depth,) = bits if len(bits) == 1 else (0,)
    format, planar, predictor, compression = layout
    grey = channels == 1 and photometric in (WHITE_IS_ZERO, BLACK_IS_ZERO)
    white_is_zero = photometric == WHITE_IS_ZERO
    if grey and depth == 16 and format in (1, SIGNED):
        return _of_sixteen(tags, white_is_zero, format == SIGNED)
    colours = channels == 3 and photometric == RGB and planar == 1
    if 8 < depth < 16 and (grey or colours) and format == 1 and predictor == 1 and compression in BYTEWISE:
        values, info = _unpacked(tags, depth, channels)
        return Samples(values, 2**depth - 1, grey and white_is_zero, False, info)
    return None


def _of_sixteen(tags: _Tags, white_is_zero: bool, signed: bool) -> Samples:
    tags.replace(PHOTOMETRIC, BLACK_IS_ZERO)
    tags.replace(SAMPLE_FORMAT, 1)
    image = tags.opened()
    values = np.asarray(image).astype(np.uint16)
    if signed and values.max() > 0x7FFF:
        raise RangeError("has negative values, whose brightness is undefined: store it unsigned")
    return Samples(values, 0x7FFF if signed else 0xFFFF, white_is_zero, True, image.info)


def _unpacked(tags: _Tags, depth: int, channels: int) -> tuple[np.ndarray, dict]:
    """[h, w] or [h, w, channels] uint16 and the info of the image, whose rows of samples are read as rows of bytes."""
    width, orientation = tags.one(WIDTH, 0), tags.one(ORIENTATION, 1)
    for tag in (WIDTH, TILE_WIDTH):
        tags.replace(tag, -(-tags.one(tag, 0) * depth * channels // 8))
    for tag, value in ((BITS, 8), (SAMPLES, 1), (PHOTOMETRIC, BLACK_IS_ZERO), (SAMPLE_FORMAT, 1), (ORIENTATION, 1)):
        tags.replace(tag, value)
    image = tags.opened()
    rows = np.asarray(image)
    weights = 1 << np.arange(depth - 1, -1, -1)
    values = np.empty((len(rows), width * channels), dtype=np.uint16)
    for row, target in zip(rows, values, strict=True):  # one at a time: a bit takes a byte here
        target[:] = np.unpackbits(row)[: width * channels * depth].reshape(-1, depth) @ weights
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    return values.reshape(len(rows), width, *[channels] * (channels > 1)), {**image.info, "exif": exif.tobytes()}
