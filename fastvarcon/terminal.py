"""What goes to a terminal: text without control characters, streams that are there, help that fits."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from fastvarcon.errors import UserError, reason
from fastvarcon.visible import visible

if TYPE_CHECKING:
    from rich.table import Table

WIDTHS = range(40, 401)
"""Columns in which tyro lays out help; in one or two it would not come to an end."""


def say(*lines: str) -> None:
    """Print lines that may hold names from files, at once, also where the output goes to a file."""
    print("\n".join(map(visible, lines)), flush=True)


def warn(*lines: str) -> None:
    """Print to standard error what went on without, a line each."""
    for line in lines:
        print(visible(f"warning: {line}"), file=sys.stderr, flush=True)


def add_row(table: Table, *cells: str) -> None:
    """Add a row of plain text: square brackets are not taken for rich's markup, and nothing steers the terminal."""
    from rich.text import Text

    table.add_row(*(Text(visible(cell)) for cell in cells))


# ---- at the start of a program ---------------------------------------------------------------------------------------


def prepare_terminal() -> None:
    """Make the standard streams safe to use, and keep tyro's help within WIDTHS."""
    _open_closed_streams()
    sys.stdout = _guarded(sys.stdout, _Output)
    sys.stderr = _guarded(sys.stderr, _Errors)
    _limit_width()


def _limit_width() -> None:
    columns = shutil.get_terminal_size().columns  # of the variable COLUMNS, if it is a number above 0
    if columns not in WIDTHS or "COLUMNS" in os.environ:
        os.environ["COLUMNS"] = str(min(max(columns, WIDTHS[0]), WIDTHS[-1]))


def _open_closed_streams() -> None:
    """Where a stream is closed (`>&-`), the next file to be opened would get its number, and our output."""
    for number in range(3):
        with contextlib.suppress(OSError):
            os.fstat(number)
            continue
        os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is None:  # its number may be another file's by now
            stream = open(os.devnull, "r" if name == "stdin" else "w")  # noqa: SIM115 (as long as we run)
            setattr(sys, name, stream)
            setattr(sys, f"__{name}__", stream)


class _Output(io.FileIO):
    """Standard output. Where it cannot be written, on a full disk say, work goes on, and its end says so."""

    failure: OSError | None = None
    """The first one."""

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except BrokenPipeError:  # nobody wants any more
            raise
        except OSError as error:
            self.failure = self.failure or error
            return memoryview(data).nbytes


class _Errors(io.FileIO):
    """Standard error: where it cannot be written, nobody can be told."""

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except OSError:
            return memoryview(data).nbytes


def _guarded(stream: Any, kind: type[io.FileIO]) -> Any:
    """The same stream by way of `kind`, if it is a plain file, pipe or terminal. It can print every text."""
    buffer = getattr(stream, "buffer", None)
    raw = getattr(buffer, "raw", buffer)  # python -u has no buffer
    if type(raw) is not io.FileIO:  # of a test, a notebook or Windows' console
        return stream
    stream.flush()
    guard = kind(raw.fileno(), "w", closefd=False)
    return io.TextIOWrapper(
        guard if raw is buffer else io.BufferedWriter(guard),  # as Python does for -u
        encoding=stream.encoding,
        errors="backslashreplace",
        line_buffering=stream.line_buffering,
        write_through=raw is buffer,
    )


# ---- at its end ------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def delivered_output() -> Iterator[None]:
    """What was printed inside is written at its end, and not when Python shuts down, which would print a traceback.

    Raises:
        BrokenPipeError, UserError: nobody reads standard output, or it could not be written.
    """
    try:
        yield
    except SystemExit:  # behind help, or with results in words and a code
        _deliver()
        raise
    _deliver()


def _deliver() -> None:
    sys.stdout.flush()
    buffer = getattr(sys.stdout, "buffer", None)
    failure = getattr(getattr(buffer, "raw", buffer), "failure", None)
    if failure is not None:
        raise UserError(f"standard output could not be written ({reason(failure)}): send it elsewhere")


def drop_output() -> None:
    """Let nothing that nobody reads be written again when Python shuts down."""
    try:
        sys.stdout.flush()
    except OSError:
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
