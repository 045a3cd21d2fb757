"""Files that get their name only when they are complete, also where several processes write the same one."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

from fastvarcon.errors import UserError

ANOTHER = "make its folder writable or free some space, or give another one"


class NotWritten(UserError, OSError):
    """The system refused to write a file. Both kinds, as some callers go on without the file and others do not."""


@contextlib.contextmanager
def may_write(path: Path, remedy: str = ANOTHER) -> Iterator[None]:
    """Raise NotWritten, which names `path` and the remedy, in the place of the system's refusal to write."""
    try:
        yield
    except OSError as error:
        if isinstance(error, NotWritten):
            raise
        raise NotWritten(f"{path} cannot be written ({error.strerror or error}): {remedy}") from None


@contextlib.contextmanager
def whole_file(path: Path, remedy: str = ANOTHER) -> Iterator[Path]:
    """A name beside `path`, in a folder that is made where needed, for the block to write to; then it becomes `path`.

    No other process uses that name. Nothing is left of a file that was not completed.

    Raises:
        NotWritten: with the remedy, if the block or the renaming met an OSError.
    """
    short = path.name.encode(errors="surrogateescape")[:200].decode(errors="ignore")  # a name has 255 bytes at most
    aside = path.with_name(f"{short}.{os.getpid()}-{secrets.token_hex(4)}.partial")
    with may_write(path, remedy):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            yield aside
            os.replace(aside, path)
        finally:
            with contextlib.suppress(OSError):
                aside.unlink(missing_ok=True)


def write_text(path: Path, text: str, remedy: str = ANOTHER) -> None:
    """UTF-8, whole or not at all. What UTF-8 cannot spell (half a surrogate pair) is written as an escape."""
    with whole_file(path, remedy) as aside:
        aside.write_bytes(text.encode("utf-8", "backslashreplace"))
