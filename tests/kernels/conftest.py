"""Fixtures: kernels compiled for a GPU that is not there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def compiled_for():
    """`compiled_for(capability, file)`: what aot.py prints of the kernels that `launches()` of the file launches."""
    triton = pytest.importorskip("triton", reason="triton is not on this system")
    try:
        tools = [triton.knobs.nvidia.ptxas.path, triton.knobs.nvidia.cuobjdump.path]
    except RuntimeError as error:
        pytest.skip(str(error))
    assert all(map(os.path.exists, tools))

    @cache
    def compile_file(capability: int, file: str) -> list[dict]:
        command = [sys.executable, str(Path(__file__).with_name("aot.py")), str(capability), file]
        environ = {**os.environ, "TRITON_INTERPRET": "0"}
        done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return json.loads(done.stdout)

    return compile_file
