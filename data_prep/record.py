"""What conversion hands to a writer, what it remembers of it for a resume, and what every writer offers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol


@dataclass(frozen=True)
class Record:
    payload: bytes
    """A JPEG stream, or height x width x 3 raw bytes."""
    mode: int
    """beton.JPG or beton.RAW."""
    height: int
    width: int
    transparent: bool = False
    """Whether the background shows through the image."""
    largest: int | None = None
    """Stored value, of an image of 16 bits a sample that does not say how many are in use."""


class Entry(NamedTuple):
    """A record without its bytes."""

    label: int
    mode: int
    height: int
    width: int
    size: int
    """Bytes."""
    hash: int
    """`records.content_hash` of the bytes."""


class RecordWriter(Protocol):
    """Writes a dataset beside its final name and renames it when it is whole.

    The constructor takes a lock (another process writing the same path: UserError) and leaves an earlier partial
    output alone. `restore` comes next and once, then `add`s, then one of finish, suspend, discard. Where a record lies
    follows from the sizes of the records before it, so a resumed output equals one of a single go to the byte.
    """

    path: Path
    """The final name, links resolved."""

    def restore(self, entries: Sequence[Entry]) -> int:
        """Take over the partial output of an interrupted run: how many leading entries are whole, by content hash.

        Everything behind them is cut off; `restore([])` begins an empty output.
        """

    def add(self, record: Record, label: int, hash: int) -> None:
        """Append one record and its content hash."""

    def finish(self) -> None:
        """Write the tables, sync, and rename to the final name."""

    def suspend(self) -> None:
        """Close, and leave the partial output for a later `restore`. May be called twice; nothing behind `finish`."""

    def discard(self) -> None:
        """Close, and remove the partial output. May be called twice; nothing behind `finish`."""

    def __len__(self) -> int: ...
