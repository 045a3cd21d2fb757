"""Reads a pickle of plain data without running what is in it: dicts, lists, text, bytes, numbers and uint8 arrays.

A pickle is a program, and `pickle.load` runs whatever it calls. Here every name that it asks for is refused but the
three that spell a numpy array and the one that spells bytes, and even those stand for functions of this file.
"""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np

from fastvarcon.errors import UserError

MAX_BYTES = 1_000_000_000
"""The largest batch of the authors has 155 MB."""


def load_plain_pickle(path: Path) -> Any:
    """The object in `path`. The text of Python 2 stays bytes; arrays come as PickledArray.

    Raises:
        UserError: missing, damaged, or it would run code.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise UserError(
                f"{path} has more than {MAX_BYTES / 1e9:.0f} GB, which no CIFAR batch has: correct the path"
            )
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): unpack the data set again") from None
    try:
        return _Reader(io.BytesIO(content), encoding="bytes").load()
    except _ForeignName as error:
        raise UserError(
            f"{path} is not a CIFAR batch: it would run code ({error}); delete it and fetch the one of the authors"
        ) from None
    except Exception as error:  # damaged bytes are read as any instruction, and fail in any way
        raise UserError(f"{path} is damaged ({error or type(error).__name__}): unpack the data set again") from None


class _ForeignName(Exception):
    pass


class PickledArray:
    """What numpy's pickles build with `_reconstruct`, then fill with a state."""

    values: np.ndarray | None = None
    """uint8, read-only."""

    def __setstate__(self, state: tuple) -> None:
        _version, shape, dtype, column_major, content = state
        if not isinstance(dtype, _Dtype) or dtype.name not in ("u1", b"u1") or not isinstance(content, bytes):
            raise ValueError("an array that is not of uint8")
        self.values = np.frombuffer(content, np.uint8).reshape(shape, order="F" if column_major else "C")


class _Dtype:
    def __init__(self, name: object, _align: object, _copy: object):
        self.name = name

    def __setstate__(self, state: tuple) -> None:
        """Byte order and fields: nothing that uint8 has."""


class _Reader(pickle._Unpickler):
    """In Python: where the one in C sets aside as much memory as a damaged byte asks for, this one meets its end."""

    def find_class(self, module: str, name: str) -> Any:
        if module in ("numpy.core.multiarray", "numpy._core.multiarray") and name == "_reconstruct":
            return self._new_array
        if (module, name) == ("numpy", "ndarray"):
            return None
        if (module, name) == ("numpy", "dtype"):
            return self._new_dtype
        if (module, name) == ("_codecs", "encode"):
            return self._latin1
        raise _ForeignName(f"{module}.{name}")

    def _new_array(self, _type: object, _shape: object, _typecode: object) -> PickledArray:
        return PickledArray()

    def _new_dtype(self, name: object, align: object, copy: object) -> _Dtype:
        return _Dtype(name, align, copy)

    def _latin1(self, text: str, encoding: str) -> bytes:
        if encoding != "latin1":
            raise ValueError(f"bytes spelled in {encoding}")
        return text.encode("latin1")
