"""What an interrupted conversion had done: the file OUT.journal beside the partial output.

A line of JSON per finished chunk behind a line that says what was being converted, each with its CRC-32 in front:

    7f3c21aa {"form of journal": 2, "number of images": 1281167, "mode": "jpg", ...}
    0b9d55e1 [[[0, 0, 375, 500, 17213, 8437261543389201], 20114, 1700000000123456789], ["n01440764/x.JPEG: ...", ...]]

An item is the `Entry` of a written record, or the message about a skipped file; then the size and time of the file it
was read from. A line goes to the system in one piece when its records have gone there, so that it outlives the process;
a torn line at the end is left out.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple

from fastvarcon.data_prep.record import Entry

FORM = {"form of journal": 2}
"""Belongs in every header. The first form did not say of which files the records were made: none can be taken over."""
ITEMS_PER_LINE = 1024

FileState = tuple[int, int]
"""Size in bytes and time of the last change in nanoseconds."""


class Item(NamedTuple):
    """An image that is done."""

    result: Entry | str
    state: FileState
    """Of the file that it was read from, before it was read."""


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
            if not line.endswith(b"\n") or line[:9] != b"%08x " % zlib.crc32(line[9:-1]):
                break
            values.append(json.loads(line[9:]))
        if not values:
            return None, []
        if not FORM.items() <= values[0].items():
            return values[0], []
        return values[0], [
            Item(result if isinstance(result, str) else Entry(*result), (size, time))
            for line in values[1:]
            for result, size, time in line
        ]

    def start(self, header: dict, items: Sequence[Item]) -> None:
        """Begin a journal that holds `items` already; it takes the place of an earlier one at once."""
        fresh = self.path.with_name(self.path.name + ".new")
        with open(fresh, "wb") as file:
            file.write(_line(header))
            for first in range(0, len(items), ITEMS_PER_LINE):
                file.write(_line(_plain(items[first : first + ITEMS_PER_LINE])))
        os.replace(fresh, self.path)
        self._file = open(self.path, "ab", buffering=0)  # noqa: SIM115 (closed by close)

    def append(self, items: Sequence[Item]) -> None:
        assert self._file is not None, "start comes first"
        line = memoryview(_line(_plain(items)))
        while line:
            line = line[self._file.write(line) :]

    def close(self) -> None:
        """May be called twice."""
        if self._file is not None:
            self._file.close()

    def remove(self) -> None:
        self.close()
        self.path.unlink(missing_ok=True)


def _plain(items: Sequence[Item]) -> list:
    return [[item.result, *item.state] for item in items]


def _line(value: dict | list) -> bytes:
    text = json.dumps(value).encode()
    return b"%08x %s\n" % (zlib.crc32(text), text)
