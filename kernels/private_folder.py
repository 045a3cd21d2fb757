"""Where compiled kernels are kept when neither the package's folder nor the home can be written.

As in a container that is started with `--user`, or on a read-only image. Machine code of this folder is run later: so
it has to belong to this user alone.
"""

from __future__ import annotations

import multiprocessing
import os
import stat
import sys
import tempfile
from functools import cache
from pathlib import Path


@cache
def private_folder() -> Path | None:
    """A folder of this user's in the system's temporary one, made where needed; None where there is none to trust."""
    user = os.getuid() if hasattr(os, "getuid") else None  # on Windows the temporary folder itself is the user's
    try:
        folder = Path(tempfile.gettempdir(), "fastvarcon" if user is None else f"fastvarcon-{user}")
        folder.mkdir(mode=0o700, exist_ok=True)
        status = folder.lstat()  # of a link itself: somebody else may have put it there
    except OSError:
        return None
    own = user is None or (status.st_uid == user and not status.st_mode & 0o077)
    return folder if own and stat.S_ISDIR(status.st_mode) and os.access(folder, os.W_OK | os.X_OK) else None


@cache
def say_once(text: str) -> None:
    """A warning of the first process of all."""
    if multiprocessing.parent_process() is None and os.environ.get("RANK", "0") == "0":
        print(f"warning: {text}", file=sys.stderr, flush=True)
