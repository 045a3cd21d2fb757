"""The thread pool of numba at the end of the process; to be imported where a kernel runs on it."""

from __future__ import annotations

import atexit
import ctypes
import sys


@atexit.register
def _keep_tbb() -> None:
    """numba waits for TBB's threads when its module goes. After work from a thread that is gone, on one core, none ever
    comes, and the program would not end: so the module stays."""
    pool = sys.modules.get("numba.np.ufunc.tbbpool")
    if pool is not None:
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(pool))
