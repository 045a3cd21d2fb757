"""The decoded dataset in memory: the same batches, room computed first, one copy for many processes, none left over."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

from fastvarcon.data.backends import BackendOptions, open_backend, resident, shared_pixels
from fastvarcon.data.beton import JPG, Beton
from fastvarcon.data.decode import ImageError
from fastvarcon.data_prep.convert import convert
from fastvarcon.data_prep.encode import EncodeSettings
from fastvarcon.data_prep.sources import open_source
from fastvarcon.errors import UserError

linux = pytest.mark.skipif(not shared_pixels.FOLDER.is_dir(), reason="no /dev/shm")


@pytest.fixture
def file(image_folder, tmp_path):
    out = tmp_path / "a.beton"
    convert(open_source(image_folder), out, EncodeSettings("jpg"), workers=1, on_error="stop")
    return out


@pytest.fixture(autouse=True)
def nothing_is_left():
    before = set(shared_pixels.FOLDER.glob("fastvarcon-*"))
    yield
    assert set(shared_pixels.FOLDER.glob("fastvarcon-*")) <= before


def damage(file, sample: int) -> None:
    beton = Beton(file)
    assert beton.modes[sample] == JPG
    start, size = beton.pointer(sample), int(beton.sizes[sample])
    content = bytearray(file.read_bytes())
    content[start : start + size] = bytes(size)
    file.write_bytes(content)


@pytest.mark.parametrize("keep", ["auto", pytest.param("shared", marks=linux)])
def test_same_images_as_cpu(file, keep, monkeypatch):
    monkeypatch.setattr(resident, "CHUNK_BYTES", 9000)  # several chunks
    cpu, held = open_backend("cpu", file, 2), open_backend("resident", file, 2, keep=keep)
    ids = np.array([14, 0, 7, 7, 3])
    one, other = cpu.fetch(ids), held.fetch(ids)
    for column in ("height", "width", "row_stride", "labels", "ids"):
        assert torch.equal(getattr(one, column), getattr(other, column))
    assert all(torch.equal(one.image(i), other.image(i)) for i in range(5))
    assert other.packed(lambda n: torch.empty(n, dtype=torch.uint8)).pixels.tolist() == one.pixels.tolist()
    assert held.fetch(ids).pixels.data_ptr() == other.pixels.data_ptr()  # nothing is copied
    held.close(), held.close(), cpu.close()


@pytest.mark.parametrize("keep", ["auto", pytest.param("shared", marks=linux)])
def test_broken_image_is_raised_when_asked_for(file, keep):
    damage(file, 5)
    first = open_backend("resident", file, 1, keep=keep)
    second = open_backend("resident", file, 1, keep=keep)  # with shared memory it has not decoded itself
    for backend in (first, second):
        assert len(backend.fetch(np.array([4, 6]))) == 2
        with pytest.raises(ImageError, match="record 5") as caught:
            backend.fetch(np.array([4, 5]))
        assert caught.value.sample == 5
    first.close(), second.close()
    replacing = open_backend("resident", file, 1, keep=keep, on_bad_image="replace")
    assert replacing.fetch(np.array([5])).ids.tolist() == [6]
    replacing.close()


def test_what_does_not_fit_is_refused_before_decoding(file, monkeypatch):
    monkeypatch.setattr(resident, "available_memory", lambda: 1000)
    with pytest.raises(UserError, match=r"decodes to .* GB .*--data.backend cpu"):
        open_backend("resident", file, 1)


def test_gpu_places_need_a_gpu(file):
    for keep in ("device", "pinned"):
        with pytest.raises(UserError, match="needs a GPU"):
            resident.choose_place(BackendOptions(keep=keep), 1, file)


def test_several_processes_of_a_machine_share(file, monkeypatch):
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert resident.choose_place(BackendOptions(), 1, file) == "shared"


@linux
def test_too_little_shared_memory(file, monkeypatch):
    usage = type("Usage", (), {"free": 10})
    monkeypatch.setattr(shared_pixels.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(UserError, match="--shm-size"):
        open_backend("resident", file, 1, keep="shared")


HOLD = """
import sys, time
from fastvarcon.data.backends import open_backend
backend = open_backend("resident", sys.argv[1], 1, keep="shared")
print(backend.fetch(__import__("numpy").arange(15)).pixels.sum().item(), flush=True)
time.sleep(float(sys.argv[2]))
backend.close()
"""


@linux
def test_processes_share_one_copy_and_a_killed_one_leaves_nothing_for_long(file):
    before = set(shared_pixels.FOLDER.glob("fastvarcon-*"))
    start = [sys.executable, "-c", HOLD, str(file)]
    killed = subprocess.Popen([*start, "600"], stdout=subprocess.PIPE, text=True)
    total = killed.stdout.readline()
    made = {path for path in set(shared_pixels.FOLDER.glob("fastvarcon-*")) - before if path.suffix != ".lock"}
    assert len(made) == 1
    inode = made.copy().pop().stat().st_ino
    other = subprocess.run([*start, "0"], stdout=subprocess.PIPE, text=True, check=True)
    assert other.stdout == total
    assert made.copy().pop().stat().st_ino == inode  # still held by the first
    os.kill(killed.pid, signal.SIGKILL)
    killed.communicate()
    time.sleep(0.1)
    again = subprocess.run([*start, "0"], stdout=subprocess.PIPE, text=True, check=True)  # uses it, then removes it
    assert again.stdout == total and not made.copy().pop().exists()


@linux
def test_half_filled_memory_is_filled_again(file):
    """As after a kill while the first process was decoding."""
    held = open_backend("resident", file, 1, keep="shared")
    pixels = held.fetch(np.arange(15)).pixels
    expected = pixels.clone()
    shared = held._shared
    shared._header[:] = 0
    pixels.zero_()
    again = open_backend("resident", file, 1, keep="shared")
    assert torch.equal(again.fetch(np.arange(15)).pixels, expected)
    again.close(), held.close()


def test_pinned_pixels_take_their_own_size_and_are_unlocked(file, monkeypatch):
    """torch's pinned memory is rounded up to a power of two. Memory may not go while the driver has it locked."""
    calls = []

    class Driver:
        def cudaHostRegister(self, address, size, flags):
            calls.append(size)
            return 0

        def cudaHostUnregister(self, address):
            calls.append("unlocked")
            return 0

    monkeypatch.setattr(torch.cuda, "cudart", Driver)
    monkeypatch.setattr(resident, "choose_place", lambda *arguments: "pinned")
    size = open_backend("cpu", file, 1).fetch(np.arange(15)).pixels.nbytes
    held = open_backend("resident", file, 1)
    assert calls == [size] and held.name == "resident (pinned)"
    held.close(), held.close()
    assert calls == [size, "unlocked"]
    forgotten = open_backend("resident", file, 1)
    del forgotten
    assert calls == [size, "unlocked"] * 2


@pytest.mark.gpu
@pytest.mark.parametrize("keep", ["device", "pinned", "shared"])
def test_gpu_places(file, keep):
    cpu, held = open_backend("cpu", file, 2), open_backend("resident", file, 2, device="cuda", keep=keep)
    one, other = cpu.fetch(np.arange(15)), held.fetch(np.arange(15))
    assert other.pixels.is_cuda if keep == "device" else other.pixels.is_pinned()
    assert torch.equal(one.pixels, other.pixels.cpu())
    held.close(), held.close()
