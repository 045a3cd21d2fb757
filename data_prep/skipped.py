"""OUT.skipped.txt: the list of files that a conversion left out, one message a line."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fastvarcon.errors import UserError


def skipped_path(out: Path) -> Path:
    return out.with_name(out.name + ".skipped.txt")


def write_skipped(out: Path, messages: Sequence[str]) -> Path | None:
    """List `messages` beside `out`, in the place of an earlier list. Returns where; None if nothing was skipped.

    Raises:
        UserError: the list cannot be written.
    """
    path = skipped_path(out)
    if not messages:
        path.unlink(missing_ok=True)
        return None
    try:
        path.write_text("\n".join(messages) + "\n", encoding="utf-8", errors="surrogateescape")
    except OSError as error:
        raise UserError(f"{out} is written, but the list of skipped files is not: {path} ({error.strerror})") from None
    return path


def read_skipped(out: Path) -> list[str]:
    """The messages listed beside `out`."""
    try:
        return skipped_path(out).read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except FileNotFoundError:
        return []
