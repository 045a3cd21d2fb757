"""A key for numba's cache on disk that changes with every file whose functions are compiled into a kernel.

numba looks at the file of the kernel alone, and would go on running the old code of the others. Only the kernel itself
is cached, for the same reason: its parts would come from caches of their own.
"""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable
from types import ModuleType


def depends_on(*modules: ModuleType) -> Callable:
    """Decorator, inside of njit: puts a hash of the modules' sources into the name that the cache files are given."""
    digest = hashlib.sha256("".join(map(inspect.getsource, modules)).encode()).hexdigest()[:12]

    def rename(function: Callable) -> Callable:
        function.__qualname__ += f"_{digest}"
        return function

    return rename
