"""Triton's cache in a folder that can be written; to be imported where a kernel of Triton's is.

Triton keeps its kernels below the home, and ends with a traceback at the first launch where that cannot be written.
"""

from __future__ import annotations

import os
from pathlib import Path

import torch

from .private_folder import private_folder, say_once


def choose_cache() -> None:
    """Set TRITON_CACHE_DIR where it is not set and Triton's own choice cannot be written."""
    home = Path(os.environ.get("TRITON_HOME") or os.path.expanduser("~"))
    if "TRITON_CACHE_DIR" in os.environ or _writable(home / ".triton" / "cache"):
        return
    folder = private_folder()
    if folder is not None:
        os.environ["TRITON_CACHE_DIR"] = str(folder / "triton")
        if torch.cuda.is_available():
            say_once(f"{home} cannot be written: Triton's kernels are kept in {folder}, set TRITON_CACHE_DIR to choose")


def _writable(folder: Path) -> bool:
    """It is a folder to write to, or could be made."""
    while not os.path.lexists(folder) and folder != folder.parent:
        folder = folder.parent
    return os.path.isdir(folder) and os.access(folder, os.W_OK | os.X_OK)


choose_cache()
