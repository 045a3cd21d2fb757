"""One image, however it comes, -> the record that is stored.

JPEG bytes take a quick way through libjpeg-turbo (simplejpeg). Everything else, and every JPEG that is rotated, in
other colours, or not quite whole, is decoded by PIL, which gives the same pixels. simplejpeg encodes with the fast DCT
below quality 96: that costs 0.05 dB at quality 90.
"""

from __future__ import annotations

import io
import os
import stat
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import simplejpeg
from PIL import Image

from fastvarcon.data.beton import JPG, RAW
from fastvarcon.data.decode import ImageError, decode_jpeg_into, decode_rgb, to_rgb
from fastvarcon.data_prep.record import Record
from fastvarcon.errors import UserError

MAX_SIDE = {RAW: 65_535, JPG: 65_500}
"""Pixels: a .beton entry has 16 bits for a side, libjpeg takes no larger ones than this."""
ORIENTATION = 0x0112  # EXIF tag
START_OF_SCAN, APP1, APP2 = 0xDA, 0xE1, 0xE2  # JPEG markers
HUFFMAN_FRAMES = {0xC0, 0xC1, 0xC2}  # baseline, extended, progressive; decoders differ about the arithmetic ones
END_OF_IMAGE = b"\xff\xd9"


@dataclass(frozen=True)
class EncodeSettings:
    mode: Literal["jpg", "raw", "keep"] = "jpg"
    """jpg: re-encode. raw: pixels. keep: the original JPEG bytes where they need no change, else re-encode."""
    max_resolution: int | None = None
    """Longer side in pixels at most; larger images are shrunk with an area filter, as FFCV does."""
    quality: int = 90
    """JPEG quality, 1-100."""
    check: Literal["frame", "decode"] = "frame"
    """How a JPEG is proved whole before it is kept. frame: its header can be followed to the pixels, and its last bytes
    end them, which no file does that was cut short. decode: all of its pixels are decoded."""

    def validate(self) -> None:
        if self.max_resolution is not None and self.max_resolution < 1:
            raise UserError(f"--max-resolution must be at least 1 pixel, got {self.max_resolution}")
        if not 1 <= self.quality <= 100:
            raise UserError(f"--quality must lie between 1 and 100, got {self.quality}")


PRESETS = {
    "256": EncodeSettings(max_resolution=256),
    "400": EncodeSettings(max_resolution=400),
    "500": EncodeSettings(max_resolution=500),
    "original": EncodeSettings(mode="keep"),
}


def encode(item: Path | bytes | np.ndarray, name: str, settings: EncodeSettings) -> Record:
    """Make the record of one image.

    Args:
        item: an image file, encoded bytes, or pixels: [h, w, 3] or [h, w] uint8.
        name: for messages.

    Raises:
        ImageError: not a whole image, or one too large to store; names `name`.
    """
    if isinstance(item, np.ndarray):
        pixels = np.asarray(to_rgb(Image.fromarray(item), name))
    else:
        data = _bytes_of(item, name) if isinstance(item, Path) else item
        size = _plain_jpeg_size(data)
        if settings.mode == "keep" and size and _fits(size, settings) and _is_whole(data, settings.check):
            return Record(data, JPG, *size)
        if size:
            pixels = np.empty((*size, 3), dtype=np.uint8)
            decode_jpeg_into(data, pixels, name)
        else:
            pixels = decode_rgb(data, name)
    if settings.max_resolution is not None and max(pixels.shape[:2]) > settings.max_resolution:
        pixels = _shrink(pixels, settings.max_resolution)
    height, width = pixels.shape[:2]
    mode = RAW if settings.mode == "raw" else JPG
    if max(height, width) > MAX_SIDE[mode]:
        raise ImageError(
            f"{name}: {width} x {height} pixels are more than the format's {MAX_SIDE[mode]} a side: "
            "use --max-resolution"
        )
    if mode == RAW:
        return Record(pixels.tobytes(), RAW, height, width)
    return Record(simplejpeg.encode_jpeg(pixels, settings.quality, "RGB", "420"), JPG, height, width)


def _bytes_of(path: Path, name: str) -> bytes:
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise ImageError(f"{name}: not a regular file")  # reading a pipe would wait for ever
        with open(path, "rb", buffering=0) as file:
            return file.read()
    except OSError as error:
        raise ImageError(f"{name}: cannot be read ({error.strerror})") from None


def _fits(size: tuple[int, int], settings: EncodeSettings) -> bool:
    return settings.max_resolution is None or max(size) <= settings.max_resolution


def _shrink(pixels: np.ndarray, max_resolution: int) -> np.ndarray:
    image = Image.fromarray(pixels)
    ratio = max_resolution / max(image.size)
    size = [max(1, round(ratio * side)) for side in image.size]
    return np.asarray(image.resize(size, Image.Resampling.BOX))


def _plain_jpeg_size(data: bytes) -> tuple[int, int] | None:
    """Height and width of a JPEG that every decoder turns into the same upright RGB pixels; None for anything else."""
    segments = _header_segments(data)
    if HUFFMAN_FRAMES.isdisjoint(segments):
        return None
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(data)
    except ValueError:
        return None
    # PIL refuses pictures of absurd size, before anything of that size is allocated
    if colours not in ("YCbCr", "Gray") or height * width > Image.MAX_IMAGE_PIXELS or _may_be_rotated(data, segments):
        return None
    return height, width


def _header_segments(data: bytes) -> dict[int, int]:
    """The markers before the compressed pixels and where the last segment of each begins; {} if they lead nowhere.

    A walk over some ten segments: PIL takes ten times as long to open the file.
    """
    segments: dict[int, int] = {}
    at = 2
    while data[at : at + 1] == b"\xff" and at + 4 <= len(data):
        marker = data[at + 1]
        if marker == 0xFF:  # padding
            at += 1
            continue
        if marker == START_OF_SCAN:
            return segments
        segments[marker] = at + 4
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return {}


def _may_be_rotated(data: bytes, segments: dict[int, int]) -> bool:
    """Whether PIL would turn this JPEG (EXIF or XMP, both in APP1), or it holds several pictures (APP2)."""
    if APP1 not in segments and (APP2 not in segments or b"MPF\0" not in data[: max(segments.values()) + 4]):
        return False
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = Image.open(io.BytesIO(data), formats=("JPEG",))
        return image.format != "JPEG" or image.getexif().get(ORIENTATION, 1) != 1
    except Exception:  # an EXIF block that cannot be parsed may hide a rotation
        return True


def _is_whole(data: bytes, check: str) -> bool:
    """Of a JPEG whose header is sound. Decoding reads all of it; of its pixels, one in 64 is made, and that in grey."""
    if check == "frame" and data.endswith(END_OF_IMAGE):
        return True
    try:
        simplejpeg.decode_jpeg(data, "GRAY", min_height=1, min_width=1, min_factor=8, strict=True)
    except ValueError:
        return False
    return True
