"""One process at a time writes a path. The lock of a process that was killed holds nobody up."""

from __future__ import annotations

import contextlib
from pathlib import Path

import filelock

from fastvarcon import locks
from fastvarcon.errors import UserError, reason


def lock(path: Path) -> locks.Held:
    """Hold PATH.lock until `unlock`.

    Raises:
        UserError: another process holds it, or the folder cannot be written.
    """
    try:
        return locks.acquire(path.with_name(path.name + ".lock"), timeout=0)
    except filelock.Timeout:
        raise UserError(f"{path} is being written by another process: wait for it or choose another name") from None
    except OSError as error:
        raise UserError(f"{error.filename or path} cannot be written ({reason(error)})") from None


def unlock(held: locks.Held) -> None:
    """Give the lock back and remove its file."""
    with contextlib.suppress(OSError):  # Windows keeps open files
        held.path.unlink()  # before the release: behind it, the file may be another writer's
    held.release()
