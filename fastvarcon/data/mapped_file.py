"""Files mapped into memory. Each stays open for as long as it is mapped, and a data set may have thousands."""

from __future__ import annotations

import errno
import mmap
import os
import stat
from pathlib import Path

from fastvarcon.errors import UserError
from fastvarcon.machine import open_file_limit


def map_file(path: Path) -> mmap.mmap:
    """All of a file, to read.

    Raises:
        OSError: it cannot be opened, or is not a regular file.
        ValueError: it is empty.
        UserError: too many files are open.
    """
    try:
        return _map(path)
    except OSError as error:
        if error.errno != errno.EMFILE:
            raise
    limit = open_file_limit()
    try:
        return _map(path)
    except OSError as error:
        if error.errno != errno.EMFILE:
            raise
    raise UserError(
        f"{path} cannot be opened: this process may have {limit:,} files open, and every shard is one: raise the limit "
        "(ulimit -n), or write fewer and larger shards"
    )


def _map(path: Path) -> mmap.mmap:
    mode = os.stat(path).st_mode
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    if not stat.S_ISREG(mode):  # opening a pipe would wait for ever
        raise OSError(errno.EINVAL, "not a regular file")
    with open(path, "rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
