"""What goes to a terminal: text without control characters, streams that are there, help that fits."""

from __future__ import annotations

import re

UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""Control characters, line separators, marks that turn the text around them, and bytes of file names that are no UTF-8.
No-break and ideographic spaces, joiners and all other visible Unicode are not among them."""


def printable(text: str) -> str:
    """`text` with every such character spelled out: a name from a file cannot steer the terminal, or end a line."""
    return UNPRINTABLE.sub(_spelled, text)


def _spelled(match: re.Match[str]) -> str:
    code = ord(match[0])
    return f"\\x{code - 0xDC00:02x}" if 0xDC80 <= code <= 0xDCFF else repr(match[0])[1:-1]
