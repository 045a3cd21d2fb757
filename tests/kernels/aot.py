"""Compile kernels for GPUs that are not there: every launch is compiled as it would be, and does not run.

    python aot.py '{"90": {"": null}, "120": {"varcon bfloat16 512": ["_scores"], "views": null}}'

The argument says for which GPU (80 for an A100, 90 for an H100 or H200) which launches of launches.py, by the
beginning of their names, and which kernels of each, null for all. Prints {"triton": its version, "kernels": a list of
Compiled} as JSON. Needs a process without TRITON_INTERPRET.
"""

from __future__ import annotations

import dataclasses
import json
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass

import triton
from launches import launches
from triton.backends.compiler import GPUTarget
from triton.runtime.jit import JITFunction

from fastvarcon.kernels import varcon_tiles


@dataclass(frozen=True)
class Compiled:
    capability: int
    kernel: str
    launch: str
    """Name of the launch."""
    hash: str
    """The same for two launches that run the same machine code."""
    registers: int
    """Per thread."""
    stack: int
    """Bytes per thread: what did not fit into registers."""
    shared: int
    """Bytes per program."""
    tensor_memory: int
    """Columns per program, on a GPU that has it. Beyond the limit, Triton compiles a kernel that only traps."""
    ptx: str


class AbsentGpu:
    """What Triton asks its driver before it compiles. Devices are numbered by capability, and share no kernels."""

    def __init__(self, capability: int):
        self.target = GPUTarget("cuda", capability, 32)

    def get_current_target(self) -> GPUTarget:
        return self.target

    def get_current_device(self) -> int:
        return self.target.arch

    def get_current_stream(self, device: int) -> int:
        return 0


def compile_launches(capability: int, wanted: dict[str, list[str] | None]) -> list[Compiled]:
    """wanted: {beginning of the names of launches: names of kernels, None for all}."""
    compiled = []
    run = JITFunction.run

    def compile_only(kernel, *args, grid, warmup, **options):
        if chosen is None or kernel.__name__ in chosen:
            made = run(kernel, *args, grid=grid, warmup=True, **options)
            compiled.append(_summary(capability, launch, made))

    triton.runtime.driver.set_active(AbsentGpu(capability))
    varcon_tiles.capability.cache_clear()
    JITFunction.run = compile_only
    for launch, function in launches():
        for beginning in filter(launch.startswith, wanted):
            chosen = wanted[beginning]
            function()
    JITFunction.run = run
    return compiled


def _summary(capability: int, launch: str, kernel) -> Compiled:
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(kernel.asm["cubin"])
        file.flush()
        command = [triton.knobs.nvidia.cuobjdump.path, "-res-usage", file.name]
        report = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    used = {name: int(value) for name, value in re.findall(r"(REG|STACK):(\d+)", report)}
    return Compiled(
        capability, kernel.metadata.name, launch, kernel.hash, used["REG"], used["STACK"], kernel.metadata.shared,
        kernel.metadata.tmem_size or 0, kernel.asm["ptx"],
    )  # fmt: skip


if __name__ == "__main__":
    results = [
        dataclasses.asdict(compiled)
        for capability, wanted in json.loads(sys.argv[1]).items()
        for compiled in compile_launches(int(capability), wanted)
    ]
    print(json.dumps({"triton": triton.__version__, "kernels": results}))
