"""What a terminal is shown: tables and lines of text that anybody may have written."""

from __future__ import annotations

import sys
from collections.abc import Iterable

from rich.table import Table
from rich.text import Text

from fastvarcon.visible import visible


def add_row(table: Table, *cells: str) -> None:
    """Add a row of plain text: square brackets are not taken for rich's markup, and nothing steers the terminal."""
    table.add_row(*(Text(visible(cell)) for cell in cells))


def say(text: str) -> None:
    """Print lines of text at once, also where the output goes to a file."""
    print("\n".join(map(visible, text.split("\n"))), flush=True)


def warn(lines: Iterable[str]) -> None:
    """Say on stderr what went on without, a line each."""
    for line in lines:
        print(f"warning: {visible(line)}", file=sys.stderr, flush=True)
