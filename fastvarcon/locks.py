"""File locks, also on mounts that have none: NFS without its lock daemon, Lustre without `-o flock`, some FUSE mounts.

There the program goes on without a lock and says so once: a lock by the mere presence of a file would outlive a process
that was killed, and hold up every later one.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import filelock

NO_LOCKS = frozenset((errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP))
"""What `flock` answers on a file system without locks."""


class Held:
    """A lock file that this process holds, or would hold if its file system had locks."""

    def __init__(self, path: Path, lock: filelock.BaseFileLock | None):
        self.path, self._lock = path, lock
        self.is_locked = True
        """Until `release`."""

    def release(self) -> None:
        """May be called twice."""
        self.is_locked = False
        if self._lock is not None:
            self._lock.release()


def acquire(path: Path, timeout: float = -1) -> Held:
    """Hold the lock file `path` until `release`, or the end of this process however it ends.

    Args:
        timeout: seconds to wait for another holder; 0 = none, -1 = for ever.

    Raises:
        filelock.Timeout: another process holds it.
        OSError: the folder cannot be written.
    """
    lock = None
    if _has_locks(path.parent):
        lock = filelock.FileLock(path)
        lock.acquire(timeout=timeout)
    return Held(path, lock)


@contextlib.contextmanager
def held(path: Path, timeout: float = -1) -> Iterator[None]:
    """Arguments and errors as `acquire`."""
    lock = acquire(path, timeout)
    try:
        yield
    finally:
        lock.release()


def flock(file: int, operation: int, folder: Path) -> bool:
    """`fcntl.flock` of a file descriptor in `folder`; False where there are no locks. Raises OSError as that does."""
    import fcntl

    try:
        fcntl.flock(file, operation)
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        _say_missing(folder, error.strerror or str(error))
        return False
    return True


def _has_locks(folder: Path) -> bool:
    """Tried on a file without a name: filelock's own answer to a missing flock differs between its versions."""
    if sys.platform == "win32":
        return True
    import fcntl

    with tempfile.TemporaryFile(dir=folder) as file:
        return flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB, folder)


@functools.cache
def _say_missing(folder: Path, reason: str) -> None:
    print(
        f"warning: {folder} is on a file system without locks ({reason}): see to it yourself that no two processes "
        "write there at once",
        file=sys.stderr,
        flush=True,
    )
