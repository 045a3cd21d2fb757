"""The segments of a JPEG file: what a decoder will be asked, and a copy without what decoders pass over.

libjpeg's warnings tell lost pixels and harmless oddities alike, and only the first of them is heard. So a file that is
warned about is decoded once more without its oddities: what is warned of then has cost pixels.
"""

from __future__ import annotations

END_OF_IMAGE = b"\xff\xd9"
START, END, SCAN = 0xD8, 0xD9, 0xDA  # markers
APP0, APP1, APP2, ADOBE, COMMENT = 0xE0, 0xE1, 0xE2, 0xEE, 0xFE
RESTARTS = range(0xD0, 0xD8)
TABLES = {0xC4, 0xC8, 0xCC}  # among the numbers of frames: Huffman tables, reserved, arithmetic conditioning
FRAMES = set(range(0xC0, 0xD0)) - TABLES
HUFFMAN_FRAMES = {0xC0, 0xC1, 0xC2}  # baseline, extended, progressive; decoders differ about the arithmetic ones
LOSSLESS, HIERARCHICAL = {0xC3, 0xC7, 0xCB, 0xCF}, {0xC5, 0xC6, 0xC7, 0xCD, 0xCE, 0xCF}
SEQUENTIAL = {0xC0, 0xC1, 0xC9}


def header_segments(data: bytes | memoryview) -> dict[int, int]:
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
        if marker == SCAN:
            return segments
        segments[marker] = at + 4
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return {}


def unreadable_form(data: bytes | memoryview) -> str | None:
    """What makes a JPEG one that no backend decodes: "12 bits a sample", "lossless", "hierarchical"; else None."""
    if data[:2] != b"\xff\xd8":
        return None
    segments = header_segments(data)
    for marker in FRAMES.intersection(segments):
        precision = data[segments[marker]]
        if precision != 8:
            return f"{precision} bits a sample"
        if marker in HIERARCHICAL:
            return "hierarchical"
        if marker in LOSSLESS:
            return "lossless"
    return None


def without_oddities(data: bytes | memoryview) -> bytes | None:
    """The same picture without: bytes between segments before the first scan, application data, comments, zero bytes
    behind a scan, anything behind the end; with the version, colour transform and scan parameters that decoders assume.
    None if it has no end, or more than oddities before it.

    Follows libjpeg, whose next segment begins at the next marker, whatever lies before it.
    """
    data = bytes(data)
    kept: list[bytes | bytearray] = [data[:2]]
    adobe, components, sequential, scans, at = bytearray(), 0, False, 0, 2
    while (found := data.find(b"\xff", at)) >= 0:
        if found > at and scans:
            return None  # the bytes may have been a scan
        at = found
        marker = data[at + 1] if at + 1 < len(data) else 0
        if marker == 0xFF:
            at += 1
            continue
        if marker in (0x00, 0x01) or marker in RESTARTS:  # outside a scan they say nothing
            at += 2
            continue
        if marker == END:
            if adobe and adobe[15] not in (0, 1 if components == 3 else 2):
                adobe[15] = 1 if components == 3 else 2  # YCbCr, YCCK
            return b"".join([*kept, END_OF_IMAGE])
        if marker == START:
            return None
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        segment = bytearray(data[at:end])
        at = end
        if marker in FRAMES and len(segment) > 9:
            components, sequential = segment[9], marker in SEQUENTIAL
        if marker == SCAN:
            scans += 1
            if sequential:
                segment[-3:] = b"\x00\x3f\x00"  # all coefficients, in one pass
            at = _end_of_scan(data, end)
            kept += [segment, _without_padding(data[end:at])]
        elif marker == APP0 and segment[4:9] == b"JFIF\0":
            segment[9:10] = b"\x01"
            kept.append(segment)
        elif marker == ADOBE and segment[4:9] == b"Adobe" and len(segment) >= 16:
            adobe = segment
            kept.append(segment)
        elif marker != COMMENT and not APP0 <= marker <= 0xEF:
            kept.append(segment)
    return None


def _end_of_scan(data: bytes, at: int) -> int:
    """Where the next marker begins that is neither a restart nor a stuffed byte."""
    while (at := data.find(b"\xff", at)) >= 0:
        marker = data[at + 1] if at + 1 < len(data) else END
        if marker not in (0x00, 0xFF) and marker not in RESTARTS:
            return at
        at += 1 if marker == 0xFF else 2
    return len(data)


def _without_padding(scan: bytes) -> bytes:
    """Without the zero bytes at its end. A scan that needs them is not complete, and fails without them."""
    stripped = scan.rstrip(b"\0")
    return scan[: len(stripped) + 1] if stripped.endswith(b"\xff") else stripped  # a stuffed FF 00 is data
