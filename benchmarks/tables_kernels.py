"""Table of what kernels spill, by release of Triton: from the rows of benchmarks/kernel_resources.py."""

from __future__ import annotations

from itertools import groupby

from tables_cells import Row, every_row, once, table

SHOWN = {"80": "A100", "90": "H100, H200"}
"""The file has others too."""


def stack() -> str:
    """Stack bytes per thread of each kernel that needs any; how many need none in the last line."""
    shown = [row for row in every_row("kernel_resources") if row["capability"] in SHOWN]
    releases = sorted({row["triton"] for row in shown}, key=lambda version: tuple(map(int, version.split("."))))
    spilling, others = [], 0
    key = lambda row: (row["launch"], row["kernel"], row["capability"])  # noqa: E731
    for what, found in groupby(sorted(shown, key=key), key=key):
        needs = _needs(list(found), releases)
        if any(need not in ("0", "") for need in needs):
            spilling.append((what, needs))
        else:
            others += 1
    names = once([launch for (launch, _, _), _ in spilling])
    body = [
        (name, f"`{kernel}`", SHOWN[capability], *needs)
        for name, ((_, kernel, capability), needs) in zip(names, spilling, strict=True)
    ]
    body.append((f"the other {others}", "", "", *("0" for _ in releases)))
    return table(("rows", "kernel", "GPU", *releases), body, (("kernel_resources", row) for row in shown))


def _needs(found: list[Row], releases: list[str]) -> list[str]:
    """Of one kernel of a launch, by release: the most, where it is compiled in two ways; empty where not on record."""
    return [
        str(max((int(row["stack"]) for row in found if row["triton"] == release), default="")) for release in releases
    ]


TABLES = {"stack": stack}
