"""JSON files of a run folder, which a crash, a full disk or an editor may have damaged."""

from __future__ import annotations

import json
import stat
from pathlib import Path

from fastvarcon.errors import UserError
from fastvarcon.whole_file import ANOTHER, write_text

MOST_BYTES = 256 << 20
"""More than any file that is written here: the pictures of `eval embed` take about a kilobyte an image."""
REMOVE = "remove it"


def write_json(path: Path, content: dict, remedy: str = ANOTHER) -> None:
    """Whole or not at all, also if several processes write at once. Raises NotWritten with the remedy."""
    write_text(path, json.dumps(content, indent=1) + "\n", remedy)


def read_json(path: Path, remedy: str = REMOVE) -> dict:
    """A JSON object. Raises UserError, which names the file and the remedy, if it is not one."""
    text = read_text(path, remedy)
    try:
        content = json.loads(text)
    except ValueError as error:
        raise UserError(f"{path} cannot be read as JSON ({error}): {remedy}") from None
    except RecursionError:
        raise UserError(f"{path} cannot be read as JSON (too deeply nested): {remedy}") from None
    if not isinstance(content, dict):
        raise UserError(f"{path} does not hold a JSON object: {remedy}")
    return content


def read_text(path: Path, remedy: str = REMOVE) -> str:
    """The text of a file of sane size. Raises UserError if it cannot be read, is not a plain file or not UTF-8."""
    try:
        status = path.stat()  # before it is opened: a pipe would wait for a writer
        if not stat.S_ISREG(status.st_mode):
            raise UserError(f"{path} is not a plain file: {remedy}")
        if status.st_size > MOST_BYTES:
            raise UserError(f"{path} has {status.st_size:,} bytes, more than are ever written: {remedy}")
        return path.read_bytes().decode("utf-8")
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror or error}): {remedy}") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text ({error.reason} at byte {error.start}): {remedy}") from None
