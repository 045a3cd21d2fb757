"""Tile shapes of the VarCon kernels: a static table, so that results and start-up never depend on a measurement.

The shapes were chosen by compiling: the largest that keep a row of the accumulator in registers (spilled bytes are
gated in tests/kernels/test_varcon_aot.py) and whose operands fit the shared memory of the GPU. `FASTVARCON_AUTOTUNE=1`
measures the candidates below on the first call of each shape instead, and keeps the fastest for the process.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from functools import cache

import torch
import triton

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
    ("rows", 2, 128): Tile(128, 64, 8, 3),
    ("rows", 2, 256): Tile(128, 32, 8, 3),
    ("rows", 2, 512): Tile(64, 32, 8, 3),
    ("rows", 4, 128): Tile(64, 32, 4, 2),
    ("sums", 2, 128): Tile(32, 64, 4, 2),
    ("sums", 2, 256): Tile(32, 64, 8, 2),
    ("sums", 2, 512): Tile(16, 64, 8, 2),
    ("sums", 4, 128): Tile(16, 64, 4, 2),
}
"""H100 and H200 (227 KiB)."""
BLACKWELL: Table = HOPPER | {("rows", 4, 128): Tile(64, 32, 8, 2), ("sums", 4, 128): Tile(16, 64, 8, 2)}
"""B200 and B300 (227 KiB)."""
CONSUMER: Table = HOPPER | {
    ("rows", 2, 128): Tile(128, 32, 8, 3),
    ("rows", 2, 256): Tile(64, 64, 8, 2),
    ("rows", 2, 512): Tile(32, 32, 4, 2),
    ("rows", 4, 128): Tile(32, 32, 8, 2),
    ("sums", 4, 128): Tile(32, 32, 8, 2),
}
"""Cards of capability 8.6, 8.9 and 12.0 (99 KiB)."""
AMPERE: Table = CONSUMER | {("rows", 2, 512): Tile(64, 32, 8, 2)}
"""A100 (163 KiB)."""
TABLES = {80: AMPERE, 90: HOPPER, 100: BLACKWELL, 103: BLACKWELL}


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
    """Tile of "rows" (one-pass row kernel) or "sums" (gradient by the class sums); None where rows are too long."""
    return TABLES.get(capability(), CONSUMER).get((kernel, dtype.itemsize, max(128, padded(dim))))


def too_few_rows(rows: int, classes: int, dim: int, tile: Tile) -> bool:
    """The one-pass kernel would leave most multiprocessors idle for long: there the chunked way has more programs."""
    return cdiv(rows, tile.rows) * 2 < MULTIPROCESSORS and classes * dim >= LONG_PASS


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
        _measured[key] = min([tile, *sorted(neighbours, key=str)], key=lambda one: _milliseconds(launch, one))
    return _measured[key]


def _milliseconds(launch: Callable[[Tile], object], tile: Tile) -> float:
    try:
        return triton.testing.do_bench(lambda: launch(tile))
    except (triton.runtime.errors.OutOfResources, triton.runtime.errors.PTXASError):
        return float("inf")
