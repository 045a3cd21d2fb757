"""OUT.skipped.txt: the list of files that a conversion left out, one message a line."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from fastvarcon.errors import UserError, reason
from fastvarcon.visible import visible


def skipped_path(out: Path) -> Path:
    return out.with_name(out.name + ".skipped.txt")


def check_skipped_path(out: Path) -> None:
    """Before there is anything to list: raises UserError if no list could be written."""
    path = skipped_path(out)
    if path.exists() and not path.is_file():
        raise UserError(f"{path} is not a file, and skipped files are listed under that name: move it away")


def write_skipped(out: Path, messages: Sequence[str]) -> Path | None:
    """List `messages` beside `out`, in the place of an earlier list. Returns where; None if nothing was skipped.

    Raises:
        UserError: the list cannot be written.
    """
    path = skipped_path(out)
    fresh = path.with_name(path.name + ".new")
    try:
        if not messages:
            path.unlink(missing_ok=True)
            return None
        fresh.write_text("".join(f"{visible(message)}\n" for message in messages), encoding="utf-8")
        os.replace(fresh, path)
    except OSError as error:
        raise UserError(
            f"{out} is written, but the list of skipped files is not: {path} ({reason(error)}): the same command "
            "writes it"
        ) from None
    return path


def read_skipped(out: Path) -> list[str]:
    """The messages listed beside `out`."""
    try:
        text = skipped_path(out).read_text(encoding="utf-8", errors="surrogateescape")
        return [line for line in text.split("\n") if line]
    except FileNotFoundError:
        return []
