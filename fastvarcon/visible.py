"""Text that anybody may have written, such as the name of a class, as a terminal, a picture or a page may show it."""

from __future__ import annotations

import re

UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""Control characters, line separators, marks that turn the text around them, and bytes of file names that are not
UTF-8. No-break and ideographic spaces, joiners and all other visible Unicode are not among them."""


def visible(text: str) -> str:
    """`text` on one line, with every such character spelled as in Python: a name cannot steer a terminal."""
    return UNPRINTABLE.sub(_spelled, text)


def _spelled(match: re.Match[str]) -> str:
    code = ord(match[0])
    return f"\\x{code - 0xDC00:02x}" if 0xDC80 <= code <= 0xDCFF else repr(match[0])[1:-1]
