"""The wheel is whole: it holds the linked folders, and works from any directory without the checkout."""

import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import ends
import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [
            sys.executable,
            "-m",
            "pip",
            "wheel",
            "--quiet",
            "--no-deps",
            "--no-build-isolation",
            "--wheel-dir",
            out,
            ROOT,
        ],
        check=True,
        capture_output=True,
    )
    return next(out.glob("fastvarcon-*.whl"))


def test_wheel_contains_every_module_and_nothing_beside_the_package(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    for folder in ("kernels", "data_prep"):
        modules = {f"fastvarcon/{folder}/{path.name}" for path in (ROOT / folder).glob("*.py")}
        assert modules and modules <= names
    modules = {str(path.relative_to(ROOT)) for path in (ROOT / "fastvarcon").rglob("*.py")}
    assert modules <= names and "fastvarcon/py.typed" in names
    assert {name.split("/")[0] for name in names if not name.split("/")[0].endswith(".dist-info")} == {"fastvarcon"}


def test_installed_wheel_works_from_another_directory(wheel, tmp_path, run_python):
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", tmp_path / "site", wheel],
        check=True,
        capture_output=True,
    )
    code = (
        "import fastvarcon, fastvarcon.kernels, fastvarcon.data_prep.convert, fastvarcon.training.trainer as t;"
        "print(fastvarcon.__file__, fastvarcon.varcon_loss, t.__file__)"
    )
    done = run_python("-c", code, cwd=tmp_path, PYTHONPATH=str(tmp_path / "site"))
    assert done.returncode == 0, done.stderr
    assert str(tmp_path / "site") in done.stdout and str(ROOT) not in done.stdout


def test_a_checkout_without_symbolic_links_builds_the_same(tmp_path):
    """Windows, exFAT and cloud drives have a text file in the place of a link."""
    copy = tmp_path / "copy"
    ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for name in ("fastvarcon", "kernels", "data_prep"):
        shutil.copytree(ROOT / name, copy / name, symlinks=True, ignore=ignored)
    for link in [path for path in (copy / "fastvarcon").iterdir() if path.is_symlink()]:
        target = os.readlink(link)
        link.unlink()
        link.write_text(target)
    for name in ("setup.py", "pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, copy / name)
    command = [sys.executable, "setup.py", "-q", "build_py", "--build-lib", str(tmp_path / "built")]
    subprocess.run(command, cwd=copy, check=True, capture_output=True)
    built = {path.relative_to(tmp_path / "built").as_posix() for path in (tmp_path / "built").rglob("*.py")}
    expected = {path.relative_to(ROOT).as_posix() for path in (ROOT / "fastvarcon").rglob("*.py")}
    for top in ("kernels", "data_prep"):  # rglob does not follow links
        expected |= {f"fastvarcon/{path.relative_to(ROOT).as_posix()}" for path in (ROOT / top).rglob("*.py")}
    assert built == expected


def imports_of(path: Path) -> list[str]:
    lines = (line.strip() for line in path.read_text().splitlines())
    return [line for line in lines if line.startswith(("import ", "from "))]


def test_kernels_import_nothing_of_the_package():
    for path in (ROOT / "kernels").glob("*.py"):
        assert not [line for line in imports_of(path) if "fastvarcon" in line], path


def test_imports_point_downwards():
    """design: evaluation never imports training; data, losses and models know nothing of what stands above them."""
    above = {
        "data": "training|evaluation|reporting|models|losses|data_prep",
        "losses": "training|evaluation|reporting|data",
        "models": "training|evaluation|reporting|data|losses",
        "evaluation": "training|reporting",
        "reporting": "training",
    }
    for package, forbidden in above.items():
        for path in (ROOT / "fastvarcon" / package).rglob("*.py"):
            for name in forbidden.split("|"):
                assert not [line for line in imports_of(path) if f"fastvarcon.{name}" in line], (path, name)


def test_every_public_name_is_there():
    import fastvarcon

    assert all(getattr(fastvarcon, name) is not None for name in fastvarcon.__all__)


def test_commits_are_checked_by_the_ruff_that_lints():
    pinned = re.search(r'"ruff==([\d.]+)"', (ROOT / "setup.py").read_text())[1]
    assert f"ruff-pre-commit\n    rev: v{pinned} " in (ROOT / ".pre-commit-config.yaml").read_text()


def test_the_table_of_supported_releases_is_that_of_setup_py():
    page = (ROOT / "CONTRIBUTING.md").read_text().partition("## Supported releases")[2].partition("\n## ")[0]
    table = dict(re.findall(r"([\w-]+) +\| +([\d.]+) \|", page))
    wanted = {re.split("[>=;]", one)[0] for one in ends.metadata()["install_requires"]}
    assert table.pop("Python") == ends.pythons()[0] and f"Python up to {ends.pythons()[-1]}" in page
    assert table == {name: floor for name, floor in ends.floors().items() if name in wanted} and table.keys() == wanted
    readme = (ROOT / "README.md").read_text()
    assert f"Python {ends.pythons()[0]} to {ends.pythons()[-1]}, torch {table['torch']} or later" in readme


def test_the_oldest_end_is_every_floor():
    names = {match[1] for match in re.finditer(r'"([\w-]+)>=[\d.]+', (ROOT / "setup.py").read_text())} | {"triton"}
    assert names - {"ffcv"} <= ends.floors().keys() and ends.floors()["torch"] == "2.10"
    assert ends.metadata()["python_requires"] == f">={ends.pythons()[0]}"


def test_an_interpreter_is_found_by_running_it(monkeypatch, tmp_path):
    """A shim that knows no such version, as pyenv leaves them on PATH, is passed over."""
    for version, does in (("3.10", "exit 127"), ("3.12", f'exec {sys.executable} "$@"')):
        (tmp_path / f"python{version}").write_text(f"#!/bin/sh\n{does}\n")
        (tmp_path / f"python{version}").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert ends.python_of("newest") == sys.executable
    with pytest.raises(SystemExit, match=r"python3\.10 is not on PATH: install it .* or call PYTHON_OLDEST=PATH"):
        ends.python_of("oldest")
