"""Table of what kernels spill, by release of Triton: from the rows of benchmarks/kernel_resources.py."""

from __future__ import annotations

from tables_cells import every_row, once, table

GPUS = {"80": "A100", "90": "H100, H200"}
"""Those that the table shows."""
LEAST = 32
"""Bytes from which a kernel has a line of its own."""


def stack() -> str:
    """Stack bytes per thread by release, of the kernels that need many; of the others the most, in the last line."""
    shown = [row for row in every_row("kernel_resources") if row["capability"] in GPUS]
    releases = sorted({row["triton"] for row in shown}, key=lambda version: tuple(map(int, version.split("."))))
    needs: dict[tuple[str, str, str], dict[str, int]] = {}
    for row in shown:  # a launch may have a kernel twice, compiled in two ways
        need = needs.setdefault((row["launch"], row["kernel"], row["capability"]), {})
        need[row["triton"]] = max(int(row["stack"]), need.get(row["triton"], 0))
    many = {what: need for what, need in sorted(needs.items()) if max(need.values()) >= LEAST}
    few = [need for what, need in needs.items() if what not in many]
    body = [
        (name, f"`{kernel}`", GPUS[capability], *(str(need.get(release, "")) for release in releases))
        for name, ((_, kernel, capability), need) in zip(once([what[0] for what in many]), many.items(), strict=True)
    ]
    most = [max(need.get(release, 0) for need in few) for release in releases]
    body.append((f"the other {len(few)}", "", "", *(f"{need} at most" if need else "0" for need in most)))
    return table(("launch", "kernel", "GPU", *releases), body, (("kernel_resources", row) for row in shown))


TABLES = {"stack": stack}
