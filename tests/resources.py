"""What compiled kernels take of a GPU: the limits, which are asserted, and the record, which is compared and reported.

Registers and stack bytes are the compiler's choice, and change with every release of Triton. So they are recorded by
benchmarks/kernel_resources.py, and a test run says where a kernel is not as on record, or that this release has no
record. It does not fail: results, limits, tensor cores and the absence of float64 and atomics do not depend on it.
"""

from __future__ import annotations

import csv
import re
from pathlib import Path

RECORD = Path(__file__).parents[1] / "benchmarks" / "results" / "kernel_resources.csv"
TAKEN = {"registers": " registers", "stack": " B of stack", "shared": " B of shared memory"}
"""Columns of the record, and what they count."""
SHARED = {80: 163 << 10, 89: 99 << 10, 90: 227 << 10, 100: 227 << 10, 120: 99 << 10}
"""Bytes of shared memory that one program can have, by capability."""
TENSOR_MEMORY = 512
"""Columns of tensor memory that one program can have, on the GPUs that have it."""
MMA = {80: "mma.sync", 89: "mma.sync", 90: "wgmma.mma_async", 100: "tcgen05.mma", 120: "mma.sync"}
"""Fastest instruction of the tensor cores, by capability."""


def name(kernel: dict) -> str:
    return f"{kernel['kernel']}, {kernel['launch']}, sm_{kernel['capability']}"


def instructions(kernel: dict) -> set[str]:
    """Of its PTX."""
    return set(re.findall(r"^\s*(?:@%p\d+ )?([a-z][\w.:]*)", kernel["ptx"], re.MULTILINE))


def recorded() -> list[dict]:
    """Rows of benchmarks/results/kernel_resources.csv."""
    with open(RECORD, newline="") as file:
        return [
            {**row, **{column: int(row[column]) for column in ("capability", *TAKEN)}} for row in csv.DictReader(file)
        ]


def deviations(kernels: list[dict], triton: str, rows: list[dict]) -> str:
    """One line that names kernels which are not as on record for this minor release of Triton; empty if all are.

    Args:
        kernels: what aot.py prints.
        triton: version that compiled them.
        rows: the record.
    """
    record: dict[str, list[dict]] = {}
    for row in rows:
        if row["triton"].split(".")[:2] == triton.split(".")[:2]:
            record.setdefault(name(row), []).append(row)
    remedy = "python benchmarks/kernel_resources.py records them"
    if not record:
        return f"no record of what kernels take under Triton {triton}: {remedy}"
    once = {(kernel["capability"], kernel["hash"]): kernel for kernel in reversed(kernels)}  # under its first launch
    found = [line for kernel in once.values() if (line := _deviation(kernel, record.get(name(kernel), [])))]
    if not found:
        return ""
    more = f", and {len(found) - 3} more" if len(found) > 3 else ""
    return f"kernels are not as on record for Triton {triton}: {'; '.join(found[:3])}{more}: {remedy}"


def _deviation(kernel: dict, rows: list[dict]) -> str:
    """Of one kernel from all of `rows`: a launch may have it twice, compiled in two ways."""
    if not rows:
        return f"{name(kernel)}: not on record"
    different = [[column for column in TAKEN if kernel[column] != row[column]] for row in rows]
    columns, row = min(zip(different, rows, strict=True), key=lambda pair: len(pair[0]))
    took = [f"{kernel[column]}{TAKEN[column]}, on record {row[column]}" for column in columns]
    return f"{name(kernel)}: {', '.join(took)}" if took else ""
