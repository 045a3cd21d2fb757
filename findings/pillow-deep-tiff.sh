#!/usr/bin/env bash
# Pillow 13.0.0, numpy 2.2.6, Python 3.11, Linux x86-64, 2026-11.
#
# Expected: a TIFF whose tag PhotometricInterpretation says WhiteIsZero comes inverted at any depth, and byte order and
# compression make no difference to the values.
#
# Seen: 8 bits are inverted, 16 bits are handed out as stored (a negative), and the same 16 bits in big-endian order are
# "cannot identify image file". Signed 16 bits, big-endian, Deflate: the values come byte-swapped (1 becomes 256),
# without an error; uncompressed, or little-endian, they are right.
#
# So whoever scales 16-bit TIFFs has to ask the tags. ImageOps.exif_transpose returns a copy without tags and format.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m pip install --quiet --root-user-action ignore --target "$work/lib" "pillow==13.0.0" "numpy==2.2.6"
PYTHONPATH="$work/lib" python3 - <<'PYTHON'
import io, struct, zlib
import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

def tiff(values, bits, order, photometric, signed=False, deflate=False):
    height, width = values.shape
    pixels = values.astype(f"{order}u{bits // 8}").tobytes()
    pixels = zlib.compress(pixels) if deflate else pixels
    tags = [(256, width), (257, height), (258, bits), (259, 8 if deflate else 1), (262, photometric), (273, 200),
            (277, 1), (278, height), (279, len(pixels)), (339, 2 if signed else 1)]
    entries = b"".join(struct.pack(order + "HHI", tag, 4, 1) + struct.pack(order + "I", value) for tag, value in tags)
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "IH", 8, len(tags))
    return (head + entries + bytes(4)).ljust(200, b"\0") + pixels

def read(*args, **options):
    return np.asarray(Image.open(io.BytesIO(tiff(*args, **options)))).astype(int)

values = np.arange(1, 101).reshape(10, 10)
assert (read(values, 8, "<", 0) == 255 - values).all(), "8 bits, white is zero: inverted"
assert (read(values, 16, "<", 0) == values).all(), "16 bits, white is zero: as stored"
try:
    read(values, 16, ">", 0)
    raise SystemExit("big-endian WhiteIsZero of 16 bits can be read now")
except UnidentifiedImageError:
    pass
for order, deflate in (("<", False), ("<", True), (">", False)):
    assert (read(values, 16, order, 1, signed=True, deflate=deflate) == values).all(), (order, deflate)
swapped = read(values, 16, ">", 1, signed=True, deflate=True)
assert (swapped == values.astype("<i2").byteswap()).all() and swapped[0, 0] == 256, "byte-swapped"
image = ImageOps.exif_transpose(Image.open(io.BytesIO(tiff(values, 16, "<", 0))))
assert image.format is None and not hasattr(image, "tag_v2"), "a copy without tags"
print("16-bit WhiteIsZero is not inverted; big-endian signed Deflate is byte-swapped")
PYTHON
