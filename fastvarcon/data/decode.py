"""One image file -> upright RGB pixels. Conversion, the folder backend and the .beton backend all decode here."""

from __future__ import annotations

import contextlib
import io
import struct
import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from fastvarcon.errors import UserError


class ImageError(UserError):
    """The bytes are not an image, or not a whole one."""


def open_image(source: Path | bytes | memoryview, name: str) -> Image.Image:
    """Decode completely and return a PIL image as stored (any mode, EXIF orientation not applied).

    Raises:
        ImageError: `name` is missing, truncated, or not an image.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # corrupt EXIF and large images warn; what matters raises
            image = Image.open(source if isinstance(source, Path) else io.BytesIO(source))
            image.load()
        return image
    except Image.UnidentifiedImageError:
        raise ImageError(f"{name}: not an image that can be read") from None
    except FileNotFoundError:
        raise ImageError(f"{name}: no such file") from None
    except (
        OSError,
        SyntaxError,
        ValueError,
        EOFError,
        struct.error,
        MemoryError,
        Image.DecompressionBombError,
    ) as error:
        raise ImageError(f"{name}: broken image ({error})") from None


def to_rgb(image: Image.Image, name: str) -> Image.Image:
    """Apply the EXIF orientation and convert any mode to 8-bit RGB. 16-bit grey is scaled, alpha dropped."""
    with contextlib.suppress(Exception):  # a corrupt EXIF block says nothing about the pixels
        image = ImageOps.exif_transpose(image)
    try:
        if image.mode.startswith("I"):  # PIL clips 16-bit values to 255 where it should scale them
            image = Image.fromarray((np.asarray(image).astype(np.uint32) >> 8).clip(0, 255).astype(np.uint8))
        return image if image.mode == "RGB" else image.convert("RGB")
    except (OSError, ValueError) as error:
        raise ImageError(f"{name}: cannot be converted to RGB ({error})") from None


def decode_rgb(source: Path | bytes | memoryview, name: str) -> np.ndarray:
    """Upright RGB pixels, [height, width, 3] uint8. Raises ImageError, which names `name`."""
    return np.asarray(to_rgb(open_image(source, name), name))
