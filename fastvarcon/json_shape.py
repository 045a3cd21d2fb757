"""What a JSON value has to look like, and where it does not: for files that anybody may have edited.

A shape is `Text()`, `Number()`, `Flag()`; `[shape]`, a list of such values; `{"name": shape, "other?": shape}`, an
object with those entries, of which `?` may be missing, and any others; `Each(shape)`, an object with any names; or
`Maybe(shape)`, which may be null.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

MOST = 2.0**53
"""Beyond it whole numbers are no longer exact as floats, and none that is written here comes near."""


@dataclass(frozen=True)
class Text:
    def misfit(self, value: object, place: str) -> str | None:
        return None if isinstance(value, str) else f"{place} is not a text"


@dataclass(frozen=True)
class Flag:
    def misfit(self, value: object, place: str) -> str | None:
        return None if isinstance(value, bool) else f"{place} is neither true nor false"


@dataclass(frozen=True)
class Number:
    """least to most; `whole`: without a fraction; `finite`: neither infinite nor NaN."""

    least: float = -1e300
    most: float = 1e300
    whole: bool = False
    finite: bool = True

    def misfit(self, value: object, place: str) -> str | None:
        if isinstance(value, bool) or not isinstance(value, int if self.whole else int | float):
            return f"{place} is not a {'whole ' * self.whole}number"
        if isinstance(value, float) and not math.isfinite(value):
            return f"{place} is {value}" if self.finite else None
        if not self.least <= value <= self.most:
            return f"{place} is not between {self.least:g} and {self.most:g}"
        return None


@dataclass(frozen=True)
class Each:
    shape: Any

    def misfit(self, value: object, place: str) -> str | None:
        if not isinstance(value, dict):
            return f"{place} is not an object"
        return next(filter(None, (misfit(one, self.shape, f"{place}.{name}") for name, one in value.items())), None)


@dataclass(frozen=True)
class Maybe:
    shape: Any

    def misfit(self, value: object, place: str) -> str | None:
        return None if value is None else misfit(value, self.shape, place)


SHARE = Number(0, 1)
COUNT = Number(0, MOST, whole=True)
FIGURE = Number(finite=False)
"""Any number: a correlation of constants is NaN."""


def misfit(value: object, shape: Any, place: str = "") -> str | None:
    """What is wrong with the value, in a few words that name its place; None if it has the shape."""
    if isinstance(shape, list):
        if not isinstance(value, list):
            return f"{place} is not a list"
        found = (misfit(one, shape[0], f"{place}[{index}]") for index, one in enumerate(value))
        return next(filter(None, found), None)
    if isinstance(shape, dict):
        if not isinstance(value, dict):
            return f"{place or 'it'} is not an object"
        for name, inner in shape.items():
            key = name.removesuffix("?")
            where = f"{place}.{key}" if place else key
            if key not in value:
                if name == key:
                    return f"it has no {where!r}"
            elif wrong := misfit(value[key], inner, where):
                return wrong
        return None
    return shape.misfit(value, place)
