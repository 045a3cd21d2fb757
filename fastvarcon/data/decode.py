"""One image file -> upright RGB pixels. Conversion and every backend that decodes on the host do it here.

Two decoders with the same result to the bit: libjpeg-turbo straight into a given buffer without the GIL (simplejpeg),
which takes whole JPEGs, and PIL, which takes everything and says what is wrong with the rest.
"""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import simplejpeg
from PIL import Image, ImageOps, TiffImagePlugin, WebPImagePlugin

from fastvarcon.errors import UserError, reason

# PIL goes by content, whatever the name: no interpreter of EPS by surprise. JPEG includes MPO.
FORMATS = (
    "JPEG",
    "PNG",
    "BMP",
    "GIF",
    "PPM",
    WebPImagePlugin.WebPImageFile.format,
    TiffImagePlugin.TiffImageFile.format,
)


class ImageError(UserError):
    """The bytes are not an image, or not a whole one. `sample` is its id where a backend met it in a dataset."""

    def __init__(self, message: str, sample: int | None = None):
        super().__init__(message, sample)
        self.sample = sample

    def __str__(self) -> str:
        return self.args[0]


def open_image(source: Path | bytes | memoryview, name: str) -> Image.Image:
    """Decode completely and return a PIL image as stored (any mode, EXIF orientation not applied).

    Raises:
        ImageError: `name` is missing, unreadable, truncated, too large, or not an image of FORMATS.
    """
    if isinstance(source, Path) and source.exists() and not source.is_file():
        raise ImageError(f"{name}: not a regular file")  # reading a pipe would wait for ever
    with _naming(name):
        image = Image.open(source if isinstance(source, Path) else io.BytesIO(source), formats=FORMATS)
        image.load()
    return image


@contextlib.contextmanager
def _naming(name: str) -> Iterator[None]:
    """Whatever PIL raises inside becomes an ImageError that names the image."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # corrupt EXIF and large images warn; what matters raises
            yield
    except Image.UnidentifiedImageError:
        raise ImageError(f"{name}: not an image that can be read") from None
    except (FileNotFoundError, PermissionError) as error:
        raise ImageError(f"{name}: cannot be read ({error.strerror})") from None
    except Image.DecompressionBombError:
        most = 2 * (Image.MAX_IMAGE_PIXELS or 0)
        raise ImageError(f"{name}: more than {most:,} pixels, shrink it first") from None
    except Exception as error:  # decoders raise whatever they meet in damaged bytes
        raise ImageError(f"{name}: broken image ({reason(error)})") from None


def to_rgb(image: Image.Image, name: str) -> Image.Image:
    """Apply the EXIF orientation and convert any mode to 8-bit RGB. 16-bit grey is scaled, alpha dropped.

    Raises:
        ImageError: 32-bit integer or float pixels, whose range is anybody's guess.
    """
    with contextlib.suppress(Exception):  # a corrupt EXIF block says nothing about the pixels
        image = ImageOps.exif_transpose(image)
    sixteen_bits = image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM"))
    if sixteen_bits:  # PIL clips such values to 255 where it should scale them
        image = Image.fromarray((np.asarray(image).astype(np.uint32) >> 8).astype(np.uint8))
    elif image.mode in ("I", "F"):
        raise ImageError(f"{name}: 32-bit pixels have no defined range, store them with 8 or 16 bits")
    try:
        return image if image.mode == "RGB" else image.convert("RGB")
    except (OSError, ValueError) as error:
        raise ImageError(f"{name}: cannot be converted to RGB ({error})") from None


def decode_rgb(source: Path | bytes | memoryview, name: str) -> np.ndarray:
    """Upright RGB pixels, [height, width, 3] uint8. Raises ImageError, which names `name`."""
    return np.asarray(to_rgb(open_image(source, name), name))


def decode_jpeg_into(record: bytes | memoryview, target: np.ndarray, name: str) -> None:
    """Decode the upright JPEG `record` into `target`, [height, width, 3] uint8, contiguous. Allocates nothing.

    The same pixels as `decode_rgb`: accurate DCT, smooth chroma upsampling. EXIF is not looked at.

    Raises:
        ImageError: not a whole JPEG, or one of another size than `target`.
    """
    height, width = target.shape[:2]
    try:
        found = simplejpeg.decode_jpeg_header(record)[:2]
        if found == (height, width):
            simplejpeg.decode_jpeg(record, "RGB", buffer=target.reshape(-1), strict=True)
            return
    except ValueError:  # damaged, or a harmless oddity: PIL tells which
        pass
    with _naming(name):
        image = Image.open(io.BytesIO(record), formats=("JPEG",))
    if image.size != (width, height):  # told by the header, before anything of that size is allocated
        raise ImageError(
            f"{name}: decodes to {image.height} x {image.width} pixels, its entry says {height} x {width}: "
            "convert the images again"
        )
    with _naming(name):
        target[...] = np.asarray(image.convert("RGB"))
