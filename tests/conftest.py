"""Fixtures: small real images, converted files, processes. GPU tests skip with the reason where there is none."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import runpy
import signal
import socket
import subprocess
import sys
from pathlib import Path

# Before the libraries that read them. What a terminal, a launcher or the settings of a user say is not for our programs
# here; threads of OpenMP that spin while they wait cost minutes where several processes share the cores.
for name in ("COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR", "MPLBACKEND", "FASTVARCON_AUTOTUNE", "TRITON_INTERPRET"):
    os.environ.pop(name, None)
for name in [name for name in os.environ if re.match("(LOCAL_)?(RANK|WORLD_SIZE)$|MASTER_|ACCELERATE_|SLURM_", name)]:
    del os.environ[name]
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import numpy as np
import pytest
import torch
from PIL import Image

ROOT = Path(__file__).parent.parent
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # Triton kernels run in its interpreter; read when triton is first imported
    if importlib.util.find_spec("triton"):
        import memcheck

        memcheck.install()


# The files that take longest, by `--durations`: a worker that began one of them last would leave the others idle.
LONGEST = ("test_survival", "test_trainer", "test_docs", "test_driver", "test_evaluations", "test_varcon_distributed")


def pytest_configure(config: pytest.Config) -> None:
    config.option.loadscopereorder = False  # pytest-xdist puts files with many tests first, however short they are


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.path.stem not in LONGEST)
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="no CUDA device"))


def photo(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """A smooth random picture: JPEG keeps it nearly as it is, unlike noise."""
    coarse = rng.integers(0, 256, (max(2, height // 8), max(2, width // 8), 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture
def image_folder(tmp_path: Path, rng: np.random.Generator) -> Path:
    """Three classes, 4 + 5 + 6 JPEG and PNG files of different sizes."""
    root = tmp_path / "images"
    for label, name in enumerate(("ant", "bee", "cat")):
        (root / name).mkdir(parents=True)
        for index in range(4 + label):
            picture = Image.fromarray(photo(rng, int(rng.integers(20, 60)), int(rng.integers(20, 60))))
            suffix = "png" if index % 2 else "jpg"
            picture.save(root / name / f"{index}.{suffix}", **({"quality": 95} if suffix == "jpg" else {}))
    return root


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(train, val) .beton files of scikit-learn's digits."""
    from fastvarcon.data_prep.convert import convert
    from fastvarcon.data_prep.digits import write_digits
    from fastvarcon.data_prep.encode import EncodeSettings
    from fastvarcon.data_prep.sources import open_source

    root = tmp_path_factory.mktemp("digits")
    write_digits(root / "images")
    for split in ("train", "val"):
        source = open_source(root / "images" / split)
        convert(source, root / f"{split}.beton", EncodeSettings(mode="raw"), workers=1, on_error="stop")
    return root / "train.beton", root / "val.beton"


@pytest.fixture(scope="session")
def run_python():
    """Run `python ARGS` in a process of its own; returns it with its output as text."""

    def run(
        *args: str | Path | int, cwd: Path = ROOT, timeout: float = 600, **env: str
    ) -> subprocess.CompletedProcess[str]:
        environ = {**os.environ, **env}
        command = [sys.executable, *map(str, args)]
        return subprocess.run(
            command, cwd=cwd, env=environ, capture_output=True, text=True, timeout=timeout, check=False
        )

    return run


@pytest.fixture
def call(monkeypatch, capfd):
    """`call(program, *args)`: `fastvarcon` or a recipe in this process, which has torch already; else as run_python."""

    def run(program: str | Path, *args: str | Path) -> subprocess.CompletedProcess[str]:
        command = [str(program), *map(str, args)]
        monkeypatch.setattr(sys, "argv", command)
        terminate, threads = signal.getsignal(signal.SIGTERM), torch.get_num_threads()  # a program sets its own
        capfd.readouterr()
        code = 0
        try:
            if program == "fastvarcon":
                importlib.import_module("fastvarcon.cli").main()
            else:
                runpy.run_path(str(program), run_name="__main__")
        except SystemExit as leaving:
            code = leaving.code or 0
        finally:
            signal.signal(signal.SIGTERM, terminate)
            torch.set_num_threads(threads)
        return subprocess.CompletedProcess(command, code, *capfd.readouterr())

    monkeypatch.chdir(ROOT)
    return run


@pytest.fixture
def fastvarcon(call):
    """`fastvarcon(*args, code=0)`: the stdout of the command; the stderr where it is to end with code 2."""

    def run(*args: str | Path, code: int = 0) -> str:
        done = call("fastvarcon", *args)
        assert done.returncode == code, done.stdout + done.stderr
        return done.stderr if code == 2 else done.stdout

    return run


@pytest.fixture
def run_ranks(run_python):
    """Run a script on several gloo processes, as torchrun does, and fail with its output if one of them fails."""
    if not hasattr(os, "fork"):
        pytest.skip("this system does not fork")

    def run(world_size: int, *args: str | Path, **env: str) -> str:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        done = run_python(Path(__file__).with_name("ranks.py"), world_size, port, *args, **env)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return run


@pytest.fixture
def file_handles():
    """Counts the open files and mapped dataset files of this process."""

    def count() -> int:
        maps = Path("/proc/self/maps").read_text().count(".beton")
        return len(os.listdir("/proc/self/fd")) + maps

    if not Path("/proc/self/fd").is_dir():
        pytest.skip("no /proc")
    return count


FFCV = """
import json, sys
import numpy as np
from ffcv.fields import rgb_image
from ffcv.fields.basics import IntDecoder
from ffcv.loader import Loader, OrderOption
path, out, os_cache, decoder, *args = json.loads(sys.argv[1])
pipelines = {"image": [getattr(rgb_image, decoder)(*args)], "label": [IntDecoder()]}
loader = Loader(path, 1, 1, os_cache, OrderOption.SEQUENTIAL, pipelines=pipelines)
images, labels = zip(*((i.copy(), t[:, 0].copy()) for i, t in loader))
np.savez(out, images=np.concatenate(images), labels=np.concatenate(labels))
"""


@pytest.fixture
def read_with_ffcv(run_python, tmp_path):
    """`read_with_ffcv(path, os_cache, decoder, *args)`: images [n, h, w, 3] and labels [n] out of ffcv's own Loader.

    In a process of its own: ffcv makes some of numba's array types read-only for everything else in the process.
    """
    pytest.importorskip(
        "ffcv", reason="the ffcv package is not installed: it needs libturbojpeg0-dev, libopencv-dev, pkg-config"
    )

    def read(path: Path, os_cache: bool, decoder: str, *args) -> tuple[np.ndarray, np.ndarray]:
        out = tmp_path / "ffcv.npz"
        done = run_python("-c", FFCV, json.dumps([str(path), str(out), os_cache, decoder, *args]))
        assert done.returncode == 0, done.stderr
        with np.load(out) as arrays:
            return arrays["images"], arrays["labels"]

    return read
