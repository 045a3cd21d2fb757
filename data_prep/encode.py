"""One image, however it comes, -> the record that is stored.

JPEG bytes take a quick way through libjpeg-turbo (simplejpeg). Everything else, and every JPEG that is rotated, in
other colours, or not quite whole, is decoded by PIL, which gives the same pixels. simplejpeg encodes with the fast DCT
below quality 96: that costs 0.05 dB at quality 90.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import simplejpeg
from PIL import Image

from fastvarcon.data.beton import JPG, RAW
from fastvarcon.data.decode import (
    DEPTHS,
    Decoded,
    ImageError,
    Rendering,
    check_size,
    colour_of,
    decode,
    decode_jpeg_into,
    jpeg_warning,
    read_file,
)
from fastvarcon.data.jpeg_stream import APP1, APP2, END_OF_IMAGE, HUFFMAN_FRAMES, header_segments
from fastvarcon.data_prep.record import Record
from fastvarcon.errors import UserError

MAX_SIDE = {RAW: 65_535, JPG: 65_500}
"""Pixels: a .beton entry has 16 bits for a side, libjpeg takes no larger ones than this."""
ORIENTATION = 0x0112  # EXIF tag


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
    background: str = "white"
    """Colour that shows through transparent pixels: a name or #rrggbb."""
    depth: int | None = None
    """Bits in use of images of 16 bits a sample that do not say it, 8 to 16; None: all of them."""

    def rendering(self) -> Rendering:
        return Rendering(colour_of(self.background), self.depth)

    def validate(self) -> None:
        self.rendering()
        if self.depth is not None and self.depth not in DEPTHS:
            raise UserError(f"--depth must lie between {DEPTHS[0]} and {DEPTHS[-1]} bits, got {self.depth}")
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
    found = _decoded(item, name, settings)
    if isinstance(found, Record):
        return found
    pixels, transparent, largest = found
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
        return Record(pixels.tobytes(), RAW, height, width, transparent, largest)
    jpeg = simplejpeg.encode_jpeg(pixels, settings.quality, "RGB", "420")
    return Record(jpeg, JPG, height, width, transparent, largest)


def _decoded(item: Path | bytes | np.ndarray, name: str, settings: EncodeSettings) -> Decoded | Record:
    """The pixels, or the record of a JPEG that is kept as it is."""
    if isinstance(item, np.ndarray):
        return Decoded(item if item.ndim == 3 else np.repeat(item[..., None], 3, axis=2))
    data = read_file(item, name) if isinstance(item, Path) else item
    check_size(len(data), name)
    size = _plain_jpeg_size(data)
    if size is None:
        return decode(data, name, settings.rendering())
    if settings.mode == "keep" and _fits(size, settings) and _is_whole(data, settings.check):
        return Record(data, JPG, *size)
    pixels = np.empty((*size, 3), dtype=np.uint8)
    decode_jpeg_into(data, pixels, name)
    return Decoded(pixels)


def _fits(size: tuple[int, int], settings: EncodeSettings) -> bool:
    return settings.max_resolution is None or max(size) <= settings.max_resolution


def _shrink(pixels: np.ndarray, max_resolution: int) -> np.ndarray:
    image = Image.fromarray(pixels)
    ratio = max_resolution / max(image.size)
    size = [max(1, round(ratio * side)) for side in image.size]
    return np.asarray(image.resize(size, Image.Resampling.BOX))


def _plain_jpeg_size(data: bytes) -> tuple[int, int] | None:
    """Height and width of a JPEG that every decoder turns into the same upright RGB pixels; None for anything else."""
    segments = header_segments(data)
    frames = HUFFMAN_FRAMES.intersection(segments)
    if not frames or any(data[segments[frame]] != 8 for frame in frames):  # bits a sample
        return None
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(data)
    except ValueError:
        return None
    # PIL refuses pictures of absurd size, before anything of that size is allocated
    if colours not in ("YCbCr", "Gray") or height * width > Image.MAX_IMAGE_PIXELS or _may_be_rotated(data, segments):
        return None
    return height, width


def _may_be_rotated(data: bytes, segments: dict[int, int]) -> bool:
    """Whether PIL would turn this JPEG (EXIF or XMP, both in APP1), or it holds several pictures (APP2)."""
    if APP1 not in segments and (APP2 not in segments or b"MPF\0" not in data[: max(segments.values()) + 4]):
        return False
    try:
        image = Image.open(io.BytesIO(data), formats=("JPEG",))
        return image.format != "JPEG" or image.getexif().get(ORIENTATION, 1) != 1
    except Exception:  # an EXIF block that cannot be parsed may hide a rotation
        return True


def _is_whole(data: bytes, check: str) -> bool:
    """Of a JPEG whose header is sound: whether every decoder takes it without a word."""
    return (check == "frame" and data.endswith(END_OF_IMAGE)) or jpeg_warning(data) is None
