"""Machine code of numba's on disk, under a key that changes with every file whose functions are compiled into a kernel.

numba looks at the file of the kernel alone, and would go on running the old code of the others. Only the kernel itself
is cached, for the same reason: its parts would come from caches of their own.
"""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numba
from numba import njit

from .private_folder import private_folder, say_once


def cached_njit(**options: Any) -> Callable:
    """Decorator: njit with a cache on disk, where numba finds a place for one.

    That is NUMBA_CACHE_DIR, the package's own folder or the user's cache. Where none can be written it is
    `private_folder`, and where there is none either, every process compiles the function; both is said once.
    """

    def decorate(function: Callable) -> Callable:
        try:
            return njit(cache=True, **options)(function)
        except RuntimeError as error:
            if "cannot cache" not in str(error):
                raise
        folder, before = private_folder(), numba.config.CACHE_DIR
        if folder is not None:
            try:
                numba.config.CACHE_DIR = str(folder / "numba")
                kernel = njit(cache=True, **options)(function)
                say_once(f"{CANNOT}: they are kept in {folder}, set NUMBA_CACHE_DIR to choose another folder")
                return kernel
            except RuntimeError:
                pass
            finally:
                numba.config.CACHE_DIR = before
        say_once(f"{CANNOT}: every process compiles them again, set NUMBA_CACHE_DIR to a folder that can be written")
        return njit(**options)(function)

    return decorate


CANNOT = "compiled kernels can be stored neither beside the package nor in the home"


def cache_place(kernel: Any) -> str:
    """Where the machine code of a `cached_njit` function is kept, for people."""
    return kernel.stats.cache_path or "nowhere: set NUMBA_CACHE_DIR to a folder that can be written"


def depends_on(*modules: ModuleType) -> Callable:
    """Decorator, inside of cached_njit: puts a hash of the modules' sources into the name of the cache files."""
    digest = hashlib.sha256("".join(map(inspect.getsource, modules)).encode()).hexdigest()[:12]

    def rename(function: Callable) -> Callable:
        function.__qualname__ += f"_{digest}"
        return function

    return rename
