"""Locks, and file systems that have none: simulated by the answers that the system call gives there."""

import errno
import os
import sys

import filelock
import numpy as np
import pytest

from fastvarcon import locks
from fastvarcon.data.backends import open_backend
from fastvarcon.data.beton import RAW, Beton
from fastvarcon.data.records import content_hash
from fastvarcon.data_prep.beton_writer import BetonWriter
from fastvarcon.data_prep.record import Record
from fastvarcon.run_folder import RunFolder, write_json
from fastvarcon.studies.launch import wait_for_lock

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="flock is Unix's")


SUMMARY = {
    "final_loss": 1.0, "epochs": 1, "seconds": 1.0, "views_per_second": 1.0, "data_wait_fraction": 0.0, "world_size": 1,
    "global_batch": 2, "backend": "cpu", "device_name": "a CPU", "versions": {}, "command": "train.py",
}  # fmt: skip


@pytest.fixture(params=["ENOLCK", "ENOSYS", "EOPNOTSUPP"])
def no_locks(request, monkeypatch):
    """A mount whose `flock` fails."""
    import fcntl

    def flock(file, operation):
        if not operation & fcntl.LOCK_UN:
            code = getattr(errno, request.param)
            raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", flock)
    locks._say_missing.cache_clear()


def write(path, labels=(0, 1, 0, 1)):
    with BetonWriter(path, len(labels), ["a", "b"]) as writer:
        for index, label in enumerate(labels):
            payload = bytes([index] * 12)
            writer.add(Record(payload, RAW, 2, 2), label, content_hash(payload))
    return path


def test_a_held_lock_keeps_others_out_until_its_release(tmp_path):
    mine = locks.acquire(tmp_path / "a.lock")
    with pytest.raises(filelock.Timeout):
        locks.acquire(tmp_path / "a.lock", timeout=0)
    mine.release(), mine.release()
    with locks.held(tmp_path / "a.lock", timeout=0):
        assert not mine.is_locked


def test_every_lock_of_the_program_goes_on_without_and_says_so_once(no_locks, tmp_path, capsys):
    folder = RunFolder(tmp_path / "run")
    folder.lock()
    write_json(folder.summary, SUMMARY)
    folder.update_summary({"knn_top1": 0.5})
    wait_for_lock(folder.path)
    assert folder.read_summary()["knn_top1"] == 0.5
    folder.unlock()
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and f"warning: {folder.path} is on a file system without locks (" in said
    assert len(Beton(write(tmp_path / "d.beton"))) == 4 and len(Beton(write(tmp_path / "d.beton"))) == 4
    assert capsys.readouterr().err.count("without locks") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["d.beton", "run"]


@pytest.mark.skipif(sys.platform != "linux", reason="needs /dev/shm")
def test_shared_pixels_without_locks(no_locks, tmp_path, capsys):
    """Every process fills the memory with the same pixels; the first that leaves removes its name, not the memory."""
    path = write(tmp_path / "d.beton")
    one, two = (open_backend("resident", path, 1, keep="shared") for _ in range(2))
    place = one._shared._path
    one.close()
    assert two.fetch(np.array([3])).image(0).unique().tolist() == [3] and not place.exists()
    two.close()
    assert capsys.readouterr().err.count("/dev/shm is on a file system without locks") == 1
