"""Compile kernels for a GPU that is not there: every launch is compiled as it would be, and does not run.

    python aot.py CAPABILITY FILE

CAPABILITY is 80 for an A100, 90 for an H100 or H200. FILE defines `launches()`, which yields (name, function that
launches kernels on host tensors). Prints a list of Compiled as JSON. Needs a process without TRITON_INTERPRET.
"""

from __future__ import annotations

import dataclasses
import json
import re
import runpy
import subprocess
import sys
import tempfile
from dataclasses import dataclass

import triton
from triton.backends.compiler import GPUTarget
from triton.runtime.jit import JITFunction


@dataclass(frozen=True)
class Compiled:
    launch: str
    """Name that `launches` gave."""
    hash: str
    """The same for two launches that run the same machine code."""
    registers: int
    """Per thread."""
    stack: int
    """Bytes per thread: what did not fit into registers."""
    shared: int
    """Bytes per program."""
    ptx: str


class AbsentGpu:
    """What Triton asks its driver before it compiles."""

    def __init__(self, capability: int):
        self.target = GPUTarget("cuda", capability, 32)

    def get_current_target(self) -> GPUTarget:
        return self.target

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0


def compile_launches(capability: int, launches) -> list[Compiled]:
    kernels = []
    run = JITFunction.run

    def compile_only(kernel, *args, grid, warmup, **options):
        kernels.append(run(kernel, *args, grid=grid, warmup=True, **options))

    triton.runtime.driver.set_active(AbsentGpu(capability))
    JITFunction.run = compile_only
    compiled = []
    for name, launch in launches:
        kernels.clear()
        launch()
        compiled += [_summary(name, kernel) for kernel in kernels]
    return compiled


def _summary(launch: str, kernel) -> Compiled:
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(kernel.asm["cubin"])
        file.flush()
        command = [triton.knobs.nvidia.cuobjdump.path, "-res-usage", file.name]
        report = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    used = {name: int(value) for name, value in re.findall(r"(REG|STACK):(\d+)", report)}
    return Compiled(launch, kernel.hash, used["REG"], used["STACK"], kernel.metadata.shared, kernel.asm["ptx"])


if __name__ == "__main__":
    results = compile_launches(int(sys.argv[1]), runpy.run_path(sys.argv[2])["launches"]())
    print(json.dumps([dataclasses.asdict(result) for result in results]))
