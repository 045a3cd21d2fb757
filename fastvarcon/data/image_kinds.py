"""What a file is, by its first bytes: an image that can be read, one that cannot, or something else.

A usual suffix is believed, as opening a million files only to look at them takes as long as reading them. Any other
name, and none, is decided by the content.
"""

from __future__ import annotations

import os
import re
import stat
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from fastvarcon.errors import UserError

IMAGE_SUFFIXES = frozenset((
    ".jpg", ".jpeg", ".jpe", ".jfif", ".jif", ".pjpeg", ".mpo", ".png", ".apng", ".webp", ".bmp", ".gif", ".tif",
    ".tiff", ".ppm", ".pgm", ".pbm", ".pnm",
))  # fmt: skip
RAW_SUFFIXES = frozenset((
    ".dng", ".nef", ".nrw", ".cr2", ".arw", ".sr2", ".srf", ".srw", ".orf", ".rw2", ".pef", ".raf", ".3fr", ".iiq",
    ".erf", ".kdc",
))  # fmt: skip
"""Camera raw files are TIFFs whose first image is a thumbnail."""
HEAD = 512
"""Bytes that are looked at."""
KINDS_SHOWN = 8
HANDFUL = 5
"""Files that may be left out with a note."""
TEXT, LOOSE = "text", "loose"  # left out without regret: captions, lists; files beside the class folders
_NAMES = {TEXT: "text files", LOOSE: "files beside the class folders", "": "files of unknown content without a suffix"}

_PNM = re.compile(rb"P[1-6]\s+(#[^\n]*\n\s*)*\d+\s")
_READABLE = (
    ("JPEG", re.compile(rb"\xff\xd8\xff")),
    ("PNG", re.compile(rb"\x89PNG\r\n\x1a\n")),
    ("GIF", re.compile(rb"GIF8[79]a")),
    ("WebP", re.compile(rb"RIFF....WEBP", re.S)),
    ("TIFF", re.compile(rb"II[*+]\0|MM\0[*+]")),
    ("BMP", re.compile(rb"BM.{8}.{4}[\x0c-\x7c]\0\0\0", re.S)),
    ("PNM", _PNM),
)
_UNREADABLE = (
    ("AVIF", re.compile(rb"....ftypavi[fs]", re.S)),
    ("HEIC", re.compile(rb"....ftyp(?:hei[cxms]|hev[cxms]|mif1|msf1)", re.S)),
    ("JP2", re.compile(rb"\0\0\0\x0cjP  \r\n\x87\n|\xff\x4f\xff\x51")),
    ("JPEG XL", re.compile(rb"\xff\x0a|\0\0\0\x0cJXL \r\n\x87\n")),
    ("JPEG XR", re.compile(rb"II\xbc")),
    ("camera raw", re.compile(rb"II[*]\0....CR\x02|....ftypcrx |FUJIFILMCCD-RAW|IIRO|IIU\0", re.S)),
    ("Photoshop", re.compile(rb"8BPS")),
    ("DICOM", re.compile(rb".{128}DICM", re.S)),
    ("OpenEXR", re.compile(rb"v/1\x01")),
    ("PDF", re.compile(rb"%PDF-")),
    ("SVG", re.compile(rb"\s*(?:<\?xml.*?)?(?:<!--.*?-->\s*)*(?:<!DOCTYPE svg.*?)?<svg\b", re.S)),
)


def looks_like_image(path: str) -> bool:
    """Whether the content is that of an image, even one that cannot be read."""
    kind, readable = kind_of_file(path)
    return readable or kind in dict(_UNREADABLE)


def kind_of_file(path: str) -> tuple[str, bool]:
    """As `kind_of`, of a file of any kind or a dead link: nothing is waited for and nothing raised."""
    head = b""
    try:
        if stat.S_ISREG(os.stat(path).st_mode):
            with open(path, "rb", buffering=0) as file:
                head = file.read(HEAD)
    except OSError:
        return os.path.splitext(path)[1].lower(), False
    return kind_of(head, path)


def kind_of(head: bytes, name: str) -> tuple[str, bool]:
    """(kind, readable) of a file that begins with `head`: "JPEG", "AVIF", TEXT, or its suffix, ".npy" say."""
    suffix = os.path.splitext(name)[1].lower()
    for kind, pattern in _UNREADABLE:
        if pattern.match(head):
            return kind, False
    if suffix in RAW_SUFFIXES:
        return "camera raw", False
    for kind, pattern in _READABLE:
        if pattern.match(head):
            return kind, True
    if _is_text(head) or os.path.basename(name).lower() in ("thumbs.db", "desktop.ini"):
        return TEXT, False
    return suffix, False


def _is_text(head: bytes) -> bool:
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):  # UTF-16
        return True
    if b"\0" in head:
        return False
    try:
        head.decode()
    except UnicodeDecodeError as error:
        return error.start > HEAD - 4 and len(head) == HEAD  # a letter cut in two
    return True


def listed(kinds: Mapping[str, int]) -> str:
    """15 AVIF files, 1 .npy file: the most frequent kinds first, at most KINDS_SHOWN of them."""

    def one(kind: str, count: int) -> str:
        named = f"{count:,} {_NAMES.get(kind, f'{kind} files')}"
        return named if count > 1 else named.replace("files", "file")

    found = Counter(kinds).most_common()
    shown = [one(kind, count) for kind, count in found[:KINDS_SHOWN]]
    rest = sum(count for _, count in found[KINDS_SHOWN:])
    return ", ".join([*shown, *[f"{rest:,} others"] * (rest > 0)])


def perhaps_images(left_out: Mapping[str, int]) -> dict[str, int]:
    """Those of `left_out` whose loss matters: not text, nor what lies beside the class folders."""
    return {kind: count for kind, count in left_out.items() if kind not in (TEXT, LOOSE)}


def refuse_left_out(where: str | Path, left_out: Mapping[str, int], remedy: str) -> None:
    """Raise UserError if more than a handful of files that may be images would be left out.

    Args:
        left_out: number of files by kind; text, and what lies beside the class folders, does not count.
        remedy: what else can be done but to convert them.
    """
    missed = perhaps_images(left_out)
    if sum(missed.values()) > HANDFUL:
        raise UserError(
            f"{where} holds {listed(missed)}, which cannot be read: convert them to JPEG, PNG or WebP, or {remedy}"
        )
