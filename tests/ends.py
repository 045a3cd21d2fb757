"""The two ends of what setup.py allows, which `make test-matrix` installs; no package is needed to ask.

python tests/ends.py python oldest    the interpreter of that end, found by running it
python tests/ends.py constraints      setup.py's floors as constraints for pip: torch>=2.10 is torch==2.10.*
python tests/ends.py supported        whether the interpreter that runs this is among those of setup.py
"""

from __future__ import annotations

import os
import re
import runpy
import subprocess
import sys
from pathlib import Path
from types import ModuleType

SETUP = Path(__file__).parents[1] / "setup.py"


def metadata() -> dict:
    """What setup.py tells setuptools, without setuptools, which a fresh environment of Python 3.12 lacks."""
    given: dict = {}
    fake = ModuleType("setuptools")
    fake.setup, fake.find_packages = given.update, lambda **_: []  # type: ignore[attr-defined]
    real = sys.modules.get("setuptools")
    sys.modules["setuptools"] = fake
    try:
        runpy.run_path(str(SETUP))
    finally:
        del sys.modules["setuptools"]
        if real:
            sys.modules["setuptools"] = real
    return given


def pythons() -> list[str]:
    """Supported minor versions, oldest first: 3.10, ..."""
    return [name.rpartition(" ")[2] for name in metadata()["classifiers"] if re.search(r":: 3\.\d+$", name)]


def floors() -> dict[str, str]:
    """Oldest release by package, of all extras."""
    given = metadata()
    every = [*given["install_requires"], *(one for extra in given["extras_require"].values() for one in extra)]
    return dict(match.groups() for one in every if (match := re.match(r"([\w-]+)>=([\d.]+)", one)))


def interpreter(version: str) -> str | None:
    """Path of python3.x: run, because a shim of pyenv stands on PATH for versions too that are not chosen."""
    command = [f"python{version}", "-c", "import sys; print(sys.executable)"]
    try:
        return subprocess.run(
            command, env={**os.environ, "PYENV_VERSION": version}, capture_output=True, text=True, check=True
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def python_of(end: str) -> str:
    wanted = pythons()[:1] if end == "oldest" else pythons()[::-1]
    if found := next(filter(None, map(interpreter, wanted)), None):
        return found
    name = f"python{wanted[0]}"
    sys.exit(
        f"error: {name} is not on PATH: install it (apt install {name}-venv, or pyenv install {wanted[0]}), "
        f"or call PYTHON_{end.upper()}=PATH make test-matrix"
    )


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["python", ("oldest" | "newest") as end]:
            print(python_of(end))
        case ["constraints"]:
            print("\n".join(f"{name}=={floor}.*" for name, floor in floors().items()))
        case ["supported"]:
            sys.exit("{}.{}".format(*sys.version_info) not in pythons())
        case _:
            sys.exit(__doc__)
