"""Tile shapes of the VarCon kernels: a static table, so that results and start-up never depend on a measurement.

The shapes were chosen by compiling with every minor release of Triton from 3.6 to 3.9: of those whose operands fit the
shared memory, one whose worst release spills least. What each takes is recorded by

    python benchmarks/kernel_resources.py --triton 3.6 3.7 3.8 3.9

and docs/kernels.md has the table. Every warp has rows of its own, 16 of them for the products of an A100 and for those
of an H100: with fewer rows, Triton lets several warps make the same scores. That is why D = 512 is not here for those
two: 64 rows on 8 warps would do the first product twice.
`FASTVARCON_AUTOTUNE=1` measures neighbours on the first call of each shape, and keeps the fastest for the process.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from functools import cache

import torch
import triton

from . import triton_cache  # noqa: F401 (acts when it is imported)

ROW_MULTIPLE = 128
"""The table of centroids is padded to a multiple of this many rows, so that tiles of classes are loaded whole."""
INTERPRETED = bool(triton.knobs.runtime.interpret)
"""Kernels run in Triton's interpreter, on the CPU: settled when they are imported."""
MULTIPROCESSORS = 128  # about, on the cards in the table
LONG_PASS = 2**21  # C x D from which one program's pass over the classes takes longer than five more launches


@dataclass(frozen=True)
class Tile:
    rows: int
    classes: int
    warps: int
    stages: int


Table = dict[tuple[str, int, int], Tile]
"""(kernel, bytes of an element, padded D) -> tile. What is not there goes the chunked way (varcon_chunked.py)."""

HOPPER: Table = {
    ("rows", 2, 128): Tile(64, 64, 4, 3),  # two of them share a multiprocessor
    ("rows", 2, 256): Tile(128, 32, 8, 2),
    ("few rows", 2, 256): Tile(64, 32, 4, 3),
    ("rows", 4, 128): Tile(128, 16, 8, 2),
    ("sums", 2, 128): Tile(32, 64, 4, 2),
    ("sums", 2, 256): Tile(32, 128, 8, 2),
    ("sums", 4, 128): Tile(16, 128, 8, 2),
}
"""H100 and H200 (227 KiB)."""
BLACKWELL: Table = HOPPER | {
    ("rows", 2, 512): Tile(64, 32, 8, 3),
    ("rows", 4, 128): Tile(64, 32, 8, 2),
    ("sums", 2, 512): Tile(16, 64, 8, 2),
    ("sums", 4, 128): Tile(16, 64, 8, 2),
}
"""B200 and B300 (227 KiB), whose accumulators do not lie in registers."""
AMPERE: Table = {
    ("rows", 2, 128): Tile(128, 32, 8, 3),
    ("rows", 2, 256): Tile(64, 16, 4, 3),
    ("sums", 2, 128): Tile(32, 64, 4, 2),
    ("sums", 2, 256): Tile(32, 64, 4, 2),
}
"""A100 (163 KiB) and the cards of capability 8.6, 8.9 and 12.0 (99 KiB)."""
TABLES = {90: HOPPER, 100: BLACKWELL, 103: BLACKWELL}


@cache
def capability() -> int:
    """Of the current GPU: 90 for an H100 or H200. The interpreter takes the tiles of that one."""
    return 90 if INTERPRETED else triton.runtime.driver.active.get_current_target().arch


def cdiv(number: int, by: int) -> int:
    """Rounded up. Triton's own is meant for kernels, and slow on the host."""
    return -(-number // by)


def padded(dim: int) -> int:
    """D as the kernels see it: a power of two that a tensor core takes."""
    return max(16, 1 << (dim - 1).bit_length())


def tile_for(kernel: str, dim: int, dtype: torch.dtype) -> Tile | None:
    """Tile of "rows" (one-pass row kernel), "few rows" (the same) or "sums" (gradient by the class sums), if any."""
    return TABLES.get(capability(), AMPERE).get((kernel, dtype.itemsize, max(128, padded(dim))))


def row_tile(rows: int, classes: int, dim: int, dtype: torch.dtype) -> Tile | None:
    """Tile of the one-pass row kernel, or None where the chunked way is better.

    That is for long rows, and for so few that most multiprocessors would be idle during a long pass over the classes:
    the chunked way has more programs.
    """
    tile = tile_for("rows", dim, dtype)
    if tile is not None and cdiv(rows, tile.rows) < MULTIPROCESSORS:
        tile = tile_for("few rows", dim, dtype) or tile
    if tile is not None and cdiv(rows, tile.rows) * 2 < MULTIPROCESSORS and classes * dim >= LONG_PASS:
        return None
    return tile


# ---- opt-in measurement --------------------------------------------------------------------------------------------

_measured: dict[Hashable, Tile] = {}


def tuned(key: Hashable, tile: Tile, launch: Callable[[Tile], object]) -> Tile:
    """`tile`, or with FASTVARCON_AUTOTUNE=1 the fastest of its neighbours for `key`; `launch` runs the kernel."""
    if os.environ.get("FASTVARCON_AUTOTUNE") != "1" or INTERPRETED:
        return tile
    if key not in _measured:
        neighbours = {
            Tile(rows, classes, warps, stages)
            for rows in {tile.rows, 64, 128}
            for classes in {tile.classes, 32, 64}
            for warps in (4, 8)
            for stages in (2, 3)
        }
        _measured[key] = min([tile, *sorted(neighbours - {tile}, key=str)], key=lambda one: _milliseconds(launch, one))
    return _measured[key]


def _milliseconds(launch: Callable[[Tile], object], tile: Tile) -> float:
    """Infinity where the tile does not fit."""
    try:
        return triton.testing.do_bench(lambda: launch(tile))
    except (triton.runtime.errors.OutOfResources, triton.runtime.errors.PTXASError):
        return float("inf")
