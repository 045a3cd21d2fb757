"""Text that anybody may have written, such as the name of a class, as a terminal, a picture or a page may show it."""

from __future__ import annotations

import unicodedata

HIDDEN = frozenset(("Cc", "Cs", "Zl", "Zp"))
"""Unicode categories of control characters, halves of surrogate pairs, line and paragraph separators."""
TURNING = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
"""They reverse the direction of the text after them, to the end of the line."""


def visible(text: str) -> str:
    """The same text on one line: what would steer a terminal or break the line is spelt as in Python: `\\n`."""
    return "".join(_spelt(letter) if _steers(letter) else letter for letter in text)


def _steers(letter: str) -> bool:
    return letter in TURNING or unicodedata.category(letter) in HIDDEN


def _spelt(letter: str) -> str:
    return letter.encode("unicode_escape").decode("ascii")
