#!/usr/bin/env bash
# Pillow 13.0.0, numpy 2.2.6, Python 3.11, Linux x86-64, 2026-11.
#
# Expected: of a PNG with a tRNS chunk, convert("RGBA") makes exactly the pixels of the named value transparent.
#
# Seen: right for grey of 1, 8 and 16 bits and for RGB of 8. Grey of 2 and 4 bits: Pillow stretches the pixels to 8 bits
# (1 becomes 85, or 17) but not the value in tRNS, so nothing is transparent unless the value is 0. RGB of 16 bits: the
# pixels are reduced to their upper bytes, the value is not, so nothing is transparent either. No warning, no error.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m pip install --quiet --root-user-action ignore --target "$work/lib" "pillow==13.0.0" "numpy==2.2.6"
PYTHONPATH="$work/lib" python3 - <<'PYTHON'
import io, struct, zlib
import numpy as np
from PIL import Image

def chunk(name, content):
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

def opacity(bits, colour, row, key):
    """Of each pixel of a PNG of one row, as convert("RGBA") has it."""
    width = len(row) // (3 if colour else 1)
    planes = (np.asarray(row)[:, None] >> np.arange(bits - 1, -1, -1)) & 1
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, 1, bits, colour, 0, 0, 0))
    trns = chunk(b"tRNS", struct.pack(f">{len(key)}H", *key))
    pixels = chunk(b"IDAT", zlib.compress(b"\0" + np.packbits(planes.ravel().astype(np.uint8)).tobytes()))
    image = Image.open(io.BytesIO(b"\x89PNG\r\n\x1a\n" + head + trns + pixels + chunk(b"IEND", b"")))
    return np.asarray(image.convert("RGBA"))[0, :, 3].tolist()

for bits in (1, 8, 16):
    assert opacity(bits, 0, [0, 1, 0, 1, 0, 1, 0, 1], [1]) == [255, 0] * 4, f"grey of {bits} bits: right"
assert opacity(8, 2, [9, 9, 9, 1, 2, 3], [1, 2, 3]) == [255, 0], "RGB of 8 bits: right"
for bits in (2, 4):
    assert opacity(bits, 0, [0, 1, 2, 3], [0]) == [0, 255, 255, 255], "zero is zero"
    assert opacity(bits, 0, [0, 1, 2, 3], [1]) == [255] * 4, f"grey of {bits} bits: the value 1 is not transparent"
assert opacity(16, 2, [900, 900, 900, 1000, 2000, 3000], [1000, 2000, 3000]) == [255, 255], "RGB of 16 bits"
print("tRNS has no effect in grey PNGs of 2 and 4 bits and in RGB PNGs of 16 bits")
PYTHON
