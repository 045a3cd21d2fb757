"""Thousands of shards against a limit on open files."""

import pytest

resource = pytest.importorskip("resource", reason="this system has no such limits")

SCRIPT = """
import resource, sys
from pathlib import Path
from fastvarcon.data.beton import JPG, RAW
from fastvarcon.data.records import open_records
from fastvarcon.data_prep.beton_writer import BetonWriter
from fastvarcon.data_prep.record import Record
from fastvarcon.data_prep.tar_writer import TarWriter
from fastvarcon.errors import UserError

folder = Path(sys.argv[1])
writer = TarWriter(folder / "tars", 40, ["a"], {}, 1)
writer.restore([])
for _ in range(40):
    writer.add(Record(b"x" * 10, JPG, 1, 1), 0, 0)
writer.finish()
(folder / "betons").mkdir()
for number in range(1, 41):
    with BetonWriter(folder / "betons" / f"{number:02}.beton", 1, ["a"], {"shard": [number, 40]}) as writer:
        writer.add(Record(bytes(3), RAW, 1, 1), 0, 0)
for limits in ((30, 100), (30, 30)):
    resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    for name in ("tars", "betons"):
        try:
            print(len(open_records(folder / name)))
        except UserError as error:
            print(error)
"""


def test_more_shards_than_open_files(run_python, tmp_path):
    said = run_python("-c", SCRIPT, tmp_path).stdout.splitlines()
    assert said[:2] == ["40", "40"]
    for line, file in zip(said[2:], ("shard-0000", ".beton"), strict=True):
        assert file in line and "may have 30 files open, and every shard is one: raise the limit (ulimit -n)" in line
