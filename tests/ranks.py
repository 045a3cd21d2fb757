"""python tests/ranks.py WORLD PORT SCRIPT ARGS: run a script on WORLD ranks, as torchrun does on one machine.

Importing torch takes seconds of a core in each process. Here it is imported once, with all that the script imports at
its top; the ranks are forks of that process, which has no threads. The first rank that fails ends the others.
"""

from __future__ import annotations

import ast
import importlib
import os
import runpy
import signal
import sys
import traceback
from pathlib import Path


def import_what(script: Path) -> None:
    for node in ast.parse(script.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Import):
            for alias in node.names:
                importlib.import_module(alias.name)
        elif isinstance(node, ast.ImportFrom) and node.module != "__future__":
            importlib.import_module(node.module)


def run_rank(environ: dict[str, str], script: Path, args: list[str]) -> None:
    os.environ.update(environ)
    sys.argv = [str(script), *args]
    try:
        runpy.run_path(str(script), run_name="__main__")
        code = 0
    except SystemExit as leaving:
        code = leaving.code or 0
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    os._exit(code)


def run(world: int, port: int, script: Path, args: list[str]) -> int:
    everyone = {"WORLD_SIZE": world, "LOCAL_WORLD_SIZE": world, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    running = set()
    for rank in range(world):
        environ = {name: str(value) for name, value in {**everyone, "RANK": rank, "LOCAL_RANK": rank}.items()}
        pid = os.fork()
        if not pid:
            run_rank(environ, script, args)
        running.add(pid)
    first = 0
    while running:
        pid, status = os.wait()
        running.discard(pid)
        if status and not first:
            first = 1
            for other in running:
                os.kill(other, signal.SIGKILL)
    return first


if __name__ == "__main__":
    path = Path(sys.argv[3])
    sys.path.insert(0, str(path.parent))  # as Python does for a script
    import_what(path)
    sys.exit(run(int(sys.argv[1]), int(sys.argv[2]), path, sys.argv[4:]))
