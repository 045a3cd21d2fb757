"""A data file that is cut short while it is mapped, in a process of its own."""

import signal

import pytest

from fastvarcon.bus_error import explained

TRUNCATED = """
import sys, threading, zlib
from pathlib import Path
from fastvarcon.bus_error import explained
from fastvarcon.data.beton import RAW, Beton
from fastvarcon.data.records import content_hash
from fastvarcon.data_prep.beton_writer import BetonWriter
from fastvarcon.data_prep.record import Record

path = Path(sys.argv[1])
with BetonWriter(path, 1, ["a"]) as writer:
    record = bytes(3 * 1000 * 1000)
    writer.add(Record(record, RAW, 1000, 1000), 0, content_hash(record))
images = Beton(path)
with explained("another set"):
    pass
with explained(path):
    with open(path, "r+b") as file:
        file.truncate(4096)
    read = lambda: zlib.crc32(images.record(0))  # without the interpreter's lock, as decoders do
    if sys.argv[2] == "main":
        read()
    else:
        thread = threading.Thread(target=read)
        thread.start(), thread.join()
print("was read")
"""


@pytest.mark.skipif(not hasattr(signal, "SIGBUS"), reason="no such signal here")
@pytest.mark.parametrize("thread", ["main", "another"])
def test_a_file_that_is_cut_short_is_named(run_python, tmp_path, thread):
    done = run_python("-c", TRUNCATED, tmp_path / "d.beton", thread, timeout=60, RANK="1")
    assert done.returncode == 2 and not done.stdout
    assert done.stderr.count("\n") == 1 and done.stderr.startswith("error on rank 1: bus error: a file of ")
    assert str(tmp_path / "d.beton") in done.stderr


def test_the_handler_of_others_comes_back():
    if not hasattr(signal, "SIGBUS"):
        pytest.skip("no such signal here")
    from fastvarcon.bus_error import _libc

    with explained("x"):
        mine = _libc().signal(signal.SIGBUS, signal.SIG_IGN)
        _libc().signal(signal.SIGBUS, mine)
    assert _libc().signal(signal.SIGBUS, signal.SIG_DFL) != mine
