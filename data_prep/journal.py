"""What an interrupted conversion had done: the file OUT.journal beside the partial output.

A line of JSON per finished chunk behind a line that says what was being converted, each with its CRC-32 in front:

    7f3c21aa {"images": 1281167, "mode": "jpg", ...}
    0b9d55e1 [[0, 0, 375, 500, 17213, 8437261543389201], "n01440764/x.JPEG: broken image (...)", ...]

An item is the `Entry` of a written record, or the message about a skipped file. A line goes to the system in one piece
when its records have gone there, so that it outlives the process; a torn line at the end is left out.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

from fastvarcon.data_prep.record import Entry

Item = Entry | str
ITEMS_PER_LINE = 1024


class Journal:
    """The journal of the conversion to `out`. Raises OSError where the disk does."""

    def __init__(self, out: Path):
        self.path = out.with_name(out.name + ".journal")
        self._file: BinaryIO | None = None

    def read(self) -> tuple[dict | None, list[Item]]:
        """What was being converted (None: there is no journal), and the items that were finished."""
        try:
            lines = self.path.read_bytes().splitlines(keepends=True)
        except FileNotFoundError:
            return None, []
        values = []
        for line in lines:
            if not line.endswith(b"\n") or line[:8] != b"%08x" % zlib.crc32(line[9:-1]):
                break
            values.append(json.loads(line[9:]))
        if not values:
            return None, []
        items = [item for line in values[1:] for item in line]
        return values[0], [item if isinstance(item, str) else Entry(*item) for item in items]

    def start(self, header: dict, items: Sequence[Item]) -> None:
        """Begin a journal that holds `items` already; it takes the place of an earlier one at once."""
        fresh = self.path.with_name(self.path.name + ".new")
        with open(fresh, "wb") as file:
            file.write(_line(header))
            for first in range(0, len(items), ITEMS_PER_LINE):
                file.write(_line(items[first : first + ITEMS_PER_LINE]))
        os.replace(fresh, self.path)
        self._file = open(self.path, "ab", buffering=0)  # noqa: SIM115 (closed by close)

    def append(self, items: Sequence[Item]) -> None:
        assert self._file is not None, "start comes first"
        line = memoryview(_line(items))
        while line:
            line = line[self._file.write(line) :]

    def close(self) -> None:
        """May be called twice."""
        if self._file is not None:
            self._file.close()

    def remove(self) -> None:
        self.close()
        self.path.unlink(missing_ok=True)


def _line(value: dict | Sequence[Item]) -> bytes:
    text = json.dumps(value).encode()
    return b"%08x %s\n" % (zlib.crc32(text), text)
