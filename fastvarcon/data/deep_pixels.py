"""Images of more than 8 bits a sample: from what their files say of the range to 8 bits.

PIL gives the stored numbers of a 16-bit grey image and clips them at 255 when it converts them; of 16-bit colours it
keeps the upper byte. Right are the upper 8 of the bits that are in use. A file may say how many: BitsPerSample of a
TIFF, sBIT of a PNG, the largest value of a PGM. Where it says 16 and its camera made 12, only `depth` can tell.
"""

from __future__ import annotations

import io
import re
import struct
import sys
import zlib
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageFile

from fastvarcon.data import deep_tiff
from fastvarcon.data.deep_tiff import RangeError

SIXTEEN = 0xFFFF
_LOWER = {";16B": ";16L", ";16L": ";16B", ";16N": ";16B" if sys.byteorder == "little" else ";16L"}
"""PIL unpacks the upper byte of 16-bit colours. Told the other byte order, it unpacks the lower one."""


class Opened(NamedTuple):
    image: Image.Image
    """8 bits a channel or less, or 32; with the `info` of the file. EXIF orientation is not applied."""
    largest: int | None
    """Stored value, of a file that does not say how many of its 16 bits are in use."""


def read_image(data: bytes | memoryview, formats: tuple[str, ...], depth: int | None) -> Opened:
    """Decode completely.

    Args:
        depth: bits in use, of files of 16 bits that do not say it.

    Raises:
        RangeError: negative values, larger ones than the depth allows, or a form of image to which none can be applied.
        Others: what PIL raises.
    """
    tiff = deep_tiff.read_samples(data)
    if tiff is not None:
        largest = int(tiff.values.max()) if tiff.undeclared else None
        limit = tiff.limit if largest is None else _limit(tiff.limit, depth, largest)
        values = limit - tiff.values if tiff.white_is_zero else tiff.values
        return Opened(_picture(scaled(values, limit), tiff.info), largest)
    image = Image.open(io.BytesIO(data), formats=formats)
    deep = ";16" in str(image.tile)
    if image.format == "PNG":
        if deep:
            return _png(image, data, depth)
        _scale_transparency(image, data)
    elif image.format == "PPM" and image.mode == "I":
        return _pgm(image, _maxval(data), depth)
    elif (image.format == "TIFF" and deep) or (image.format == "PPM" and _maxval(data) == SIXTEEN):
        return _colours(image, data, formats, depth)
    image.load()
    return Opened(image, None)


def scaled(values: np.ndarray, limit: int) -> np.ndarray:
    """[...] of 0 to `limit` -> uint8, `limit` to 255: the upper 8 bits where `limit` is all ones."""
    levels = np.arange(limit + 1, dtype=np.uint32)
    table = levels * 256 // (limit + 1) if limit > 255 else (levels * 255 + limit // 2) // limit
    return table.astype(np.uint8)[values]


def _limit(full: int, depth: int | None, largest: int) -> int:
    """Raises RangeError if `depth` bits do not hold the largest value."""
    limit = full if depth is None else min(full, 2**depth - 1)
    if largest > limit:
        raise RangeError(f"has the value {largest}, more than the {limit} of --depth {depth}: give a larger --depth")
    return limit


def _picture(pixels: np.ndarray, info: dict) -> Image.Image:
    image = Image.fromarray(np.ascontiguousarray(pixels))
    image.info = {key: value for key, value in info.items() if key != "transparency"}
    return image


# ---- colours whose upper bytes PIL gives ---------------------------------------------------------------------------


def _colours(
    image: ImageFile.ImageFile, data: bytes | memoryview, formats: tuple[str, ...], depth: int | None
) -> Opened:
    """TIFF and PPM with 16 bits a channel."""
    if image.format == "PPM" and bytes(data[:2]) == b"P6":  # PIL would round, in Python
        image.tile = [tile._replace(codec_name="raw", args=("RGB;16B", 0, 1)) for tile in image.tile]
    tiles = image.tile
    upper = np.asarray(image)
    largest = int(upper[..., :3].max()) << 8 | 0xFF
    if depth is None:
        return Opened(image, largest if image.mode.startswith("RGB") else None)
    values = upper.astype(np.uint16) << 8 | _lower_bytes(data, formats, tiles)
    return Opened(_picture(_in_depth(values, depth), image.info), int(values[..., :3].max()))


def _lower_bytes(data: bytes | memoryview, formats: tuple[str, ...], tiles: list) -> np.ndarray:
    """Args: tiles: those that gave the upper bytes."""
    if not re.search(r"'(RGB|RGBA|RGBX);16", str(tiles)):
        raise RangeError("has colours to which --depth cannot be applied: store it as a PNG")
    image = Image.open(io.BytesIO(data), formats=formats)
    image.tile = [tile._replace(args=_with_lower(tile.args)) for tile in tiles]
    return np.asarray(image)


def _with_lower(arguments: object) -> object:
    if isinstance(arguments, tuple):
        return (_with_lower(arguments[0]), *arguments[1:])
    return re.sub(";16[BLN]", lambda match: _LOWER[match[0]], str(arguments))


def _in_depth(values: np.ndarray, depth: int) -> np.ndarray:
    """[h, w, 3 or 4] of 16 bits -> uint8. An opacity that is beyond the depth is one of 16 bits."""
    colours, opacity = values[..., :3], values[..., 3:]
    limit = _limit(SIXTEEN, depth, int(colours.max()))
    whole = limit if not opacity.size or opacity.max() <= limit else SIXTEEN
    return np.concatenate([scaled(colours, limit), scaled(opacity, whole)], axis=2)


# ---- PNG -----------------------------------------------------------------------------------------------------------


def _png(image: ImageFile.ImageFile, data: bytes | memoryview, depth: int | None) -> Opened:
    chunks = png_chunks(data)
    kind = chunks[b"IHDR"][9]  # 0 grey, 2 RGB, 4 grey with opacity, 6 RGB with opacity
    bits = max(chunks.get(b"sBIT", b"")[: 3 if kind & 2 else 1], default=16)
    transparent = chunks.get(b"tRNS")
    if kind & 2 and depth is None and bits == 16 and transparent is None:
        upper = np.asarray(image)
        return Opened(image, int(upper[..., :3].max()) << 8 | 0xFF)
    values = _png_values(image, data, kind)
    colours = values[..., : 3 if kind & 2 else 1]
    undeclared = not 0 < bits < 16
    if undeclared:
        limit = _limit(SIXTEEN, depth, int(colours.max()))
    else:
        limit = 2**bits - 1 if _is_low(colours, bits) else SIXTEEN
    opacity = values[..., colours.shape[2] :]
    if transparent is not None and kind in (0, 2):
        key = np.frombuffer(transparent[: 2 * colours.shape[2]], ">u2")
        opacity = np.where((colours == key).all(axis=2, keepdims=True), 0, SIXTEEN)
    whole = limit if opacity.size and opacity.max() <= limit else SIXTEEN
    pixels = np.concatenate([scaled(colours, limit), scaled(opacity, whole)], axis=2)
    return Opened(
        _picture(pixels[..., 0] if pixels.shape[2] == 1 else pixels, image.info),
        int(colours.max()) if undeclared else None,
    )


def _png_values(image: ImageFile.ImageFile, data: bytes | memoryview, kind: int) -> np.ndarray:
    """[h, w, channels] uint16."""
    if kind == 0:
        return np.asarray(image).astype(np.uint16)[..., None]
    if kind == 4:  # four bytes a pixel, as 8-bit RGBA has them
        four = np.asarray(Image.open(io.BytesIO(_with_header(data, bits=8, kind=6)), formats=("PNG",)))
        four = four.astype(np.uint16)
        return four[..., ::2] << 8 | four[..., 1::2]
    tiles = image.tile
    return np.asarray(image).astype(np.uint16) << 8 | _lower_bytes(data, ("PNG",), tiles)


def _with_header(data: bytes | memoryview, bits: int, kind: int) -> bytes:
    header = bytes(data[12:24]) + bytes([bits, kind]) + bytes(data[26:29])
    return bytes(data[:12]) + header + struct.pack(">I", zlib.crc32(header)) + bytes(data[33:])


def _is_low(values: np.ndarray, bits: int) -> bool:
    """Whether samples of `bits` bits stand in the lower bits, where the PNG standard wants them scaled to 16 bits.

    It wants round(sample * 65535 / (2^bits - 1)), or the sample in the upper bits. Dark pixels alone look alike.
    """
    top = 2**bits - 1
    if int(values.max()) > top:
        return False
    samples = np.arange(top + 1)
    proper = np.zeros(SIXTEEN + 1, dtype=bool)
    proper[(samples * SIXTEEN + top // 2) // top] = proper[samples << (16 - bits)] = True
    return not proper[values].all()


def _scale_transparency(image: Image.Image, data: bytes | memoryview) -> None:
    """Grey of 2 and 4 bits is stretched to 8 by PIL; the grey that is transparent has to be, too."""
    key, bits = image.info.get("transparency"), data[24]
    if image.mode == "L" and isinstance(key, int) and bits < 8:
        image.info["transparency"] = key * 255 // (2**bits - 1)


def png_chunks(data: bytes | memoryview) -> dict[bytes, bytes]:
    """The chunks before the pixels by name, the last one of each."""
    chunks: dict[bytes, bytes] = {}
    at = 8
    while at + 8 <= len(data):
        size, name = int.from_bytes(data[at : at + 4], "big"), bytes(data[at + 4 : at + 8])
        if name in (b"IDAT", b"IEND"):
            break
        chunks[name] = bytes(data[at + 8 : at + 8 + size])
        at += 12 + size
    return chunks


# ---- PGM -----------------------------------------------------------------------------------------------------------


def _pgm(image: Image.Image, maxval: int, depth: int | None) -> Opened:
    """PIL stretches the values to 16 bits."""
    values = (np.asarray(image).astype(np.int64) * maxval + SIXTEEN // 2) // SIXTEEN
    largest = int(values.max()) if maxval == SIXTEEN else None
    limit = maxval if largest is None else _limit(maxval, depth, largest)
    return Opened(_picture(scaled(values, limit), image.info), largest)


_PNM_HEADER = re.compile(rb"P[2356](?:\s|#[^\r\n]*[\r\n])+\d+(?:\s|#[^\r\n]*[\r\n])+\d+(?:\s|#[^\r\n]*[\r\n])+(\d+)")


def _maxval(data: bytes | memoryview) -> int:
    match = _PNM_HEADER.match(data)
    return int(match[1]) if match else 0xFF
