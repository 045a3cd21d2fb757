"""Image files that PIL does not write: TIFF of any depth and byte order, PNG of 16 bits with any chunk, odd JPEGs."""

import io
import struct
import zlib

import numpy as np
from PIL import Image


def packed(values: np.ndarray, bits: int, order: str) -> bytes:
    """[h, n] samples as rows of bits, padded to bytes; 16 bits in the order of the file."""
    if bits == 16:
        return values.astype(f"{order}u2").tobytes()
    planes = (values[..., None].astype(np.int64) >> np.arange(bits - 1, -1, -1)) & 1
    return np.packbits(planes.reshape(len(values), -1).astype(np.uint8), axis=1).tobytes()


def tiff(
    values: np.ndarray,
    bits: int,
    *,
    order: str = "<",
    photometric: int = 1,
    signed: bool = False,
    deflate: bool = False,
    rows_per_strip: int = 3,
    tile: int = 0,
    orientation: int = 1,
) -> bytes:
    """[h, w] or [h, w, 3] integers."""
    height, width = values.shape[:2]
    channels = values.size // (height * width)
    rows = values.reshape(height, -1)
    if tile:
        grown = np.zeros((-(-height // tile) * tile, -(-width // tile) * tile, channels), values.dtype)
        grown[:height, :width] = values.reshape(height, width, channels)
        corners = [(y, x) for y in range(0, height, tile) for x in range(0, width, tile)]
        parts = [grown[y : y + tile, x : x + tile].reshape(tile, -1) for y, x in corners]
    else:
        parts = [rows[y : y + rows_per_strip] for y in range(0, height, rows_per_strip)]
    strips = [packed(part, bits, order) for part in parts]
    strips = [zlib.compress(strip) for strip in strips] if deflate else strips
    count = len(strips)
    tags = {
        256: (width,),
        257: (height,),
        258: (bits,) * channels,
        259: (8 if deflate else 1,),
        262: (photometric if channels == 1 else 2,),
        274: (orientation,),
        277: (channels,),
        339: (2 if signed else 1,) * channels,
    }
    tags |= {322: (tile,), 323: (tile,)} if tile else {278: (rows_per_strip,)}
    places, sizes = (324, 325) if tile else (273, 279)
    extra_at = 8 + 2 + 12 * (len(tags) + 2) + 4
    data_at = extra_at + 8 * count + 6 * channels * 4
    starts = np.cumsum([data_at, *map(len, strips)])[:-1].tolist()
    tags |= {places: tuple(starts), sizes: tuple(map(len, strips))}
    entries, extra = b"", b""
    for tag, numbers in sorted(tags.items()):
        kind = "I" if tag in (places, sizes) else "H"
        content = struct.pack(f"{order}{len(numbers)}{kind}", *numbers)
        if len(content) > 4:
            content, extra = struct.pack(order + "I", extra_at + len(extra)), extra + content
        entries += struct.pack(order + "HHI", tag, 4 if kind == "I" else 3, len(numbers)) + content.ljust(4, b"\0")
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "IH", 8, len(tags))
    return (head + entries + bytes(4) + extra).ljust(data_at, b"\0") + b"".join(strips)


def chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def png16(values: np.ndarray, *chunks: bytes) -> bytes:
    """[h, w, 1 to 4] of 16 bits: grey, grey with opacity, RGB, RGB with opacity."""
    height, width, channels = values.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    kind = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + head + b"".join(chunks) + pixels


def saved(image: Image.Image, format: str, **options) -> bytes:
    stream = io.BytesIO()
    image.save(stream, format, **options)
    return stream.getvalue()


def flat_jpeg(width: int, height: int, sampling: list[tuple[int, int]]) -> bytes:
    """Grey of one level, with any sampling factors (horizontal, vertical) of its channels."""
    across, down = (max(factors) * 8 for factors in zip(*sampling, strict=True))
    blocks = -(-width // across) * -(-height // down) * sum(h * v for h, v in sampling)
    bits = np.r_[np.zeros(2 * blocks, np.uint8), np.ones(-2 * blocks % 8, np.uint8)]  # a block: no change, no more
    table = bytes([1] + [0] * 15) + b"\0"  # one code of one bit, for zero
    numbered = [(channel + 1, h << 4 | v) for channel, (h, v) in enumerate(sampling)]
    frame = struct.pack(">BHHB", 8, height, width, len(sampling)) + b"".join(bytes([*one, 0]) for one in numbered)
    scan = bytes([len(sampling)]) + b"".join(bytes([channel, 0]) for channel, _ in numbered) + b"\0\x3f\0"
    head = segment(0xDB, b"\0" + bytes([1]) * 64) + segment(0xC0, frame)
    tables = segment(0xC4, b"\0" + table) + segment(0xC4, b"\x10" + table)
    return b"\xff\xd8" + head + tables + segment(0xDA, scan) + np.packbits(bits).tobytes() + b"\xff\xd9"


def segment(marker: int, content: bytes) -> bytes:
    return bytes([0xFF, marker]) + struct.pack(">H", len(content) + 2) + content
