"""One image file -> upright RGB pixels. Conversion and every backend that decodes on the host do it here.

Two decoders with the same result to the bit: libjpeg-turbo straight into a given buffer without the GIL (simplejpeg),
which takes complete JPEGs, and PIL, which takes everything and says what is wrong with the rest.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import stat
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import simplejpeg
from PIL import Image, ImageColor, ImageOps, TiffImagePlugin, WebPImagePlugin

from fastvarcon.data.deep_pixels import RangeError, read_image
from fastvarcon.data.image_kinds import HEAD, TEXT, kind_of
from fastvarcon.data.jpeg_stream import unreadable_form, without_oddities
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
MAX_BYTES = (1 << 31) - 1
"""Of an image file: no record may have more."""
DEPTHS = range(8, 17)
UNNAMED_SAMPLING = "Could not determine subsampling level"

# PIL warns of corrupt EXIF, large images, odd tags, once for each image; what matters raises. Here and for good, as all
# threads share the filters.
warnings.filterwarnings("ignore", module=r"PIL\.")
logging.getLogger("PIL").addHandler(logging.NullHandler())


class ImageError(UserError):
    """The bytes are not an image, or not a complete one. `sample` is its id where a backend met it in a dataset."""

    def __init__(self, message: str, sample: int | None = None):
        super().__init__(message, sample)
        self.sample = sample

    def __str__(self) -> str:
        return self.args[0]


@dataclass(frozen=True)
class Rendering:
    """What an image file leaves open."""

    background: tuple[int, int, int] = (255, 255, 255)
    """Shows through transparent pixels."""
    depth: int | None = None
    """Bits in use of images of 16 bits a sample that do not say it; None = all of them."""


PLAIN = Rendering()


class Decoded(NamedTuple):
    pixels: np.ndarray
    """[height, width, 3] uint8, upright RGB."""
    transparent: bool = False
    """Whether the background shows through anywhere."""
    largest: int | None = None
    """Stored value, of an image of 16 bits a sample that does not say how many are in use."""


def colour_of(text: str) -> tuple[int, int, int]:
    """The colour of a name or #rrggbb. Raises UserError for anything else."""
    try:
        red, green, blue, *opacity = ImageColor.getrgb(text)
    except ValueError:
        opacity = [0]
    if opacity:
        raise UserError(f"--background {text} is not a colour: give a name, as white, or #rrggbb")
    return red, green, blue


def read_file(path: Path, name: str) -> bytes:
    """The content of an image file.

    Raises:
        ImageError: `name` is missing, unreadable, not a regular file, or larger than a record may be.
    """
    try:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):
            raise ImageError(f"{name}: not a regular file")  # reading a pipe would wait for ever
        check_size(status.st_size, name)
        with open(path, "rb", buffering=0) as file:
            return file.read()
    except OSError as error:
        raise ImageError(f"{name}: cannot be read ({reason(error)})") from None


def check_size(size: int, name: str) -> None:
    """Raises ImageError for more bytes than a record may have: before they are read, as memory may not hold them."""
    if size > MAX_BYTES:
        raise ImageError(f"{name}: {size / 2**30:,.1f} GiB, an image file may have 2 GiB at most: shrink it first")


def decode(source: Path | bytes | memoryview, name: str, rendering: Rendering = PLAIN) -> Decoded:
    """Decode an image file or its bytes.

    Raises:
        ImageError: `name` is missing, unreadable, damaged, too large, not an image of FORMATS, or one whose range of
            values is undefined (32-bit integers, floats) or beyond `rendering.depth`.
    """
    data = read_file(source, name) if isinstance(source, Path) else source
    with _naming(name, data):
        image, largest = read_image(data, FORMATS, rendering.depth)
    if image.format in ("JPEG", "MPO"):
        check_jpeg(data, name)
    with contextlib.suppress(Exception):  # a corrupt EXIF block says nothing about the pixels
        image = ImageOps.exif_transpose(image)
    if image.mode in ("I", "F"):
        raise ImageError(f"{name}: 32-bit pixels have no defined range, store them with 8 or 16 bits")
    try:
        rgb, transparent = over_background(image, rendering.background)
    except (OSError, ValueError) as error:
        raise ImageError(f"{name}: cannot be converted to RGB ({reason(error)})") from None
    return Decoded(np.asarray(rgb), transparent, largest)


def decode_rgb(source: Path | bytes | memoryview, name: str) -> np.ndarray:
    """`decode` over white: [height, width, 3] uint8."""
    return decode(source, name).pixels


def over_background(image: Image.Image, background: tuple[int, int, int]) -> tuple[Image.Image, bool]:
    """RGB of any 8-bit mode, and whether anything of the background shows. Raises what PIL's conversion does."""
    palette = image.palette.mode if image.mode == "P" and image.palette is not None else ""
    if "transparency" not in image.info and not (image.mode + palette).upper().endswith("A"):
        return image if image.mode == "RGB" else image.convert("RGB"), False
    if image.mode == "La":
        image = image.convert("LA")
    image = image if image.mode == "RGBA" else image.convert("RGBA")
    if image.getchannel("A").getextrema()[0] == 255:
        return image.convert("RGB"), False
    paper = Image.new("RGBA", image.size, (*background, 255))
    return Image.alpha_composite(paper, image).convert("RGB"), True


def decode_jpeg_into(record: bytes | memoryview, target: np.ndarray, name: str) -> None:
    """Decode the upright JPEG `record` into `target`, [height, width, 3] uint8, contiguous. Allocates nothing.

    The same pixels as `decode_rgb`: accurate DCT, smooth chroma upsampling. EXIF is not looked at.

    Raises:
        ImageError: not a complete JPEG, or one of another size than `target`.
    """
    height, width = target.shape[:2]
    try:
        found = simplejpeg.decode_jpeg_header(record)[:2]
        if found == (height, width):
            simplejpeg.decode_jpeg(record, "RGB", buffer=target.reshape(-1), strict=True)
            return
    except ValueError:  # damaged, or a harmless oddity: PIL and a closer look tell which
        pass
    with _naming(name, record):
        image = Image.open(io.BytesIO(record), formats=("JPEG",))
    if image.size != (width, height):  # told by the header, before anything of that size is allocated
        raise ImageError(
            f"{name}: decodes to {image.height} x {image.width} pixels, its entry says {height} x {width}: "
            "convert the images again"
        )
    with _naming(name, record):
        pixels = np.asarray(image.convert("RGB"))
    check_jpeg(record, name)
    target[...] = pixels


def check_jpeg(data: bytes | memoryview, name: str) -> None:
    """Raise ImageError if libjpeg-turbo warns of lost data, which PIL and most programs pass over.

    It decodes all of the file; of the pixels it makes one in 64. Oddities that cost nothing are accepted: see
    jpeg_stream.without_oddities. Chroma sampling that its interface has no name for is left to PIL.
    """
    if UNNAMED_SAMPLING in (jpeg_warning(data) or UNNAMED_SAMPLING):
        return
    tidied = without_oddities(data)
    warning = jpeg_warning(data if tidied is None else tidied)
    if warning is not None:
        raise ImageError(f"{name}: broken image ({warning})")


def jpeg_warning(data: bytes | memoryview) -> str | None:
    """The first thing that libjpeg-turbo has to say of a JPEG, if any."""
    try:
        four = simplejpeg.decode_jpeg_header(data)[2] in ("CMYK", "YCCK")
        simplejpeg.decode_jpeg(data, "CMYK" if four else "GRAY", min_height=1, min_width=1, min_factor=8, strict=True)
    except ValueError as error:
        return str(error)
    return None


@contextlib.contextmanager
def _naming(name: str, data: bytes | memoryview) -> Iterator[None]:
    """Whatever PIL raises inside becomes an ImageError that names the image."""
    try:
        yield
    except RangeError as error:
        raise ImageError(f"{name}: {error}") from None
    except Image.DecompressionBombError:
        most = 2 * (Image.MAX_IMAGE_PIXELS or 0)
        raise ImageError(f"{name}: more than {most:,} pixels, shrink it first") from None
    except Exception as error:  # decoders raise whatever they meet in damaged bytes
        raise ImageError(f"{name}: {_what_is_wrong(data, error)}") from None


def _what_is_wrong(data: bytes | memoryview, error: Exception) -> str:
    form = unreadable_form(data)
    if form is not None:
        return (
            f"a JPEG of a kind that decoders do not read ({form}): store it again with 8 bits a sample, Huffman coded"
        )
    if not isinstance(error, Image.UnidentifiedImageError):
        return f"broken image ({reason(error)})"
    kind, readable = kind_of(bytes(data[:HEAD]), "")
    what = "" if readable or kind in ("", TEXT) else f" ({kind}): convert it to JPEG or PNG first"
    return f"not an image that can be read{what}"
