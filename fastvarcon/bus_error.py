"""What a bus error means here: a mapped file was cut short, or its disk failed, while the program read it.

The system's own answer is the death of the process without a word. A handler in Python would never run, as the faulting
instruction is tried again first, and a ctypes callback could wait for the interpreter's lock for ever: so the handler
is machine code, compiled by numba, that writes a line prepared beforehand and leaves.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import signal
from collections.abc import Iterator
from typing import Any

SIZE = 2048  # bytes of the line
EXIT_CODE = 2


@contextlib.contextmanager
def explained(what: object) -> Iterator[None]:
    """Inside, a bus error ends the process with exit code 2 and one line on stderr that names `what` was read.

    Where there are no such signals (Windows) nothing happens.
    """
    if not hasattr(signal, "SIGBUS"):
        yield
        return
    handler, line = _handler()
    rank = os.environ.get("RANK", "0")
    where = "" if rank == "0" else f" on rank {rank}"
    text = (
        f"error{where}: bus error: a file of {what} was cut short, or its disk failed, while it was read: put it back "
        "and run the same command again"
    )
    before, line.value = line.value, text.replace("\n", " ").encode(errors="backslashreplace")[: SIZE - 2] + b"\n"
    libc = _libc()
    previous = libc.signal(signal.SIGBUS, handler.address)
    try:
        yield
    finally:
        libc.signal(signal.SIGBUS, previous)
        line.value = before


@functools.cache
def _libc() -> ctypes.CDLL:
    libc = ctypes.CDLL(None)
    libc.signal.argtypes, libc.signal.restype = [ctypes.c_int, ctypes.c_void_p], ctypes.c_void_p
    return libc


@functools.cache
def _handler() -> tuple[Any, Any]:
    """The compiled handler, and the buffer whose text it writes. Only calls that a signal handler may make."""
    import numba

    line = ctypes.create_string_buffer(SIZE)
    address = ctypes.addressof(line)
    libc = ctypes.CDLL(None)  # of its own: argument types belong to the object
    write, strlen, leave = libc.write, libc.strlen, libc._exit
    write.argtypes, write.restype = [ctypes.c_int32, ctypes.c_uint64, ctypes.c_uint64], ctypes.c_int64
    strlen.argtypes, strlen.restype = [ctypes.c_uint64], ctypes.c_uint64
    leave.argtypes, leave.restype = [ctypes.c_int32], None

    @numba.cfunc("void(int32)")
    def handler(_number: int) -> None:
        write(2, address, strlen(address))
        leave(EXIT_CODE)

    return handler, line
