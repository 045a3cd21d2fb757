"""Reads a pickle of plain data without running what is in it: dicts, lists, text, bytes, numbers and uint8 arrays.

A pickle is a program, and `pickle.load` runs whatever it calls. Here every name that it asks for is refused but the
three that spell a numpy array and the one that spells bytes, and even those stand for functions of this file. It may
take neither long nor much memory, either: instructions are counted, those that plain data needs none of are refused,
and none of the others does more work than the bytes that it reads. What could do more is bounded: keys are short text,
as a key is hashed with all that is in it; bytes spelled as text add up to no more than the file.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from fastvarcon.data_prep.sources.base import map_bytes
from fastvarcon.errors import UserError, reason

MAX_BYTES = 1_000_000_000
"""The largest batch of the authors has 155 MB."""
MAX_INSTRUCTIONS = 1_000_000
"""The largest real batch has 200 thousand; a million take a second, and no more than some 200 MB."""
MAX_KEY = 256
MAX_DIGITS = 12
"""Of the number of a value that is remembered."""
PLAIN = (
    "PROTO", "FRAME", "STOP", "MARK", "POP", "POP_MARK", "NONE", "NEWTRUE", "NEWFALSE", "BININT", "BININT1",
    "BININT2", "LONG1", "LONG4", "BINFLOAT", "STRING", "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES",
    "BINBYTES8", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "TUPLE", "EMPTY_TUPLE", "TUPLE1",
    "TUPLE2", "TUPLE3", "LIST", "EMPTY_LIST", "APPEND", "APPENDS", "EMPTY_DICT", "DICT", "SETITEM", "SETITEMS",
    "GET", "BINGET", "LONG_BINGET", "PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE", "GLOBAL", "STACK_GLOBAL", "REDUCE",
    "BUILD",
)  # fmt: skip
"""Instructions, as the module `pickle` names them."""


def load_plain_pickle(path: Path) -> Any:
    """The object in `path`. The text of Python 2 stays bytes; arrays come as PickledArray.

    Raises:
        UserError: missing, damaged, or it would run code, or do more than hold plain data.
    """
    content = map_bytes(path)
    if content.size > MAX_BYTES:
        raise UserError(f"{path} has more than {MAX_BYTES / 1e9:.0f} GB, which no CIFAR batch has: correct the path")
    try:
        return _Reader(content.tobytes()).load()
    except _ForeignName as error:
        raise UserError(
            f"{path} is not a CIFAR batch: it would run code ({error}); delete it and fetch the one of the authors"
        ) from None
    except Exception as error:  # damaged bytes are read as any instruction, and fail in any way
        raise UserError(f"{path} is damaged ({reason(error)}): unpack the data set again") from None


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

    stack: list[Any]
    append: Callable[[Any], None]
    readline: Callable[[], bytes]

    def __init__(self, content: bytes):
        super().__init__(io.BytesIO(content), encoding="bytes")
        self._spellable = len(content)  # bytes that may still be spelled as text
        self._remembered: dict[int, Any] = self.memo  # type: ignore[attr-defined]  # by GET, PUT and their kin
        self.dispatch = _Counted({code: theirs for code, theirs in THEIRS.items() if code in CODES} | OURS)  # type: ignore[misc]

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
            raise ValueError("bytes spelled in another encoding than latin1")
        self._spellable -= len(text)
        if self._spellable < 0:
            raise ValueError("more bytes than the file has")
        return text.encode("latin1")


# ---- instructions that are bounded -----------------------------------------------------------------------------------


def _set_item(reader: _Reader) -> None:
    _check_keys(reader.stack[-2:-1])
    THEIRS[pickle.SETITEM[0]](reader)


def _set_items(reader: _Reader) -> None:
    _check_keys(reader.stack[::2])  # all behind the mark
    THEIRS[pickle.SETITEMS[0]](reader)


def _new_dict(reader: _Reader) -> None:
    _check_keys(reader.stack[::2])
    THEIRS[pickle.DICT[0]](reader)


def _set_state(reader: _Reader) -> None:
    if not isinstance(reader.stack[-2], PickledArray | _Dtype):
        raise ValueError("a state of something that is no array")
    THEIRS[pickle.BUILD[0]](reader)


def _remember(reader: _Reader) -> None:
    reader._remembered[_number(reader)] = reader.stack[-1]


def _recall(reader: _Reader) -> None:
    reader.append(reader._remembered[_number(reader)])


def _number(reader: _Reader) -> int:
    digits = reader.readline()[:-1]
    if len(digits) > MAX_DIGITS:
        raise ValueError("a number of many digits")
    return int(digits)


def _check_keys(keys: list) -> None:
    for key in keys:
        if not isinstance(key, str | bytes) or len(key) > MAX_KEY:
            raise ValueError("a key that is not a short text")


class _Counted(dict):
    """Instructions by their code, handed out a limited number of times."""

    def __init__(self, instructions: dict[int, Callable]):
        super().__init__(instructions)
        self._left = MAX_INSTRUCTIONS

    def __getitem__(self, code: int) -> Callable:
        self._left -= 1
        if self._left < 0:
            raise ValueError(f"more than {MAX_INSTRUCTIONS:,} instructions")
        return super().__getitem__(code)

    def __missing__(self, code: int) -> Callable:
        raise ValueError(f"instruction {code:#04x}, which plain data does not need")


THEIRS: dict[int, Callable[[Any], None]] = pickle._Unpickler.dispatch
CODES = {getattr(pickle, name)[0] for name in PLAIN}
OURS = {
    pickle.SETITEM[0]: _set_item,
    pickle.SETITEMS[0]: _set_items,
    pickle.DICT[0]: _new_dict,
    pickle.BUILD[0]: _set_state,
    pickle.PUT[0]: _remember,
    pickle.GET[0]: _recall,
}
