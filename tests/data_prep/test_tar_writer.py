"""Tar shards: read by tarfile, GNU tar and DALI, indexed as by DALI's own tool, the same after any interruption."""

import hashlib
import io
import shutil
import subprocess
import sys
import tarfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from fastvarcon.data.beton import JPG, RAW
from fastvarcon.data.records import content_hash
from fastvarcon.data.tar_shards import TarShards
from fastvarcon.data_prep.record import Entry, Record
from fastvarcon.data_prep.tar_writer import BLOCK, TarWriter, sample_size
from fastvarcon.errors import UserError

CLASSES = ["ant", "bee", "cat"]


def jpegs(count: int) -> list[Record]:
    """Pictures of one colour and of different sizes."""
    records = []
    for index in range(count):
        height, width = 8 + index, 40 + 90 * (index % 3)
        stream = io.BytesIO()
        Image.new("RGB", (width, height), (20 * index % 256, 80, 10)).save(stream, "JPEG", quality=90)
        records.append(Record(stream.getvalue(), JPG, height, width))
    return records


RECORDS = jpegs(11)
LABELS = [index % 3 for index in range(10)] + [-1]
ENTRIES = [
    Entry(label, record.mode, record.height, record.width, len(record.payload), content_hash(record.payload))
    for record, label in zip(RECORDS, LABELS, strict=True)
]
SHARD_SIZE = 8 << 10


def start(path, shard_size=SHARD_SIZE) -> TarWriter:
    return TarWriter(path, len(RECORDS), CLASSES, {"quality": 90}, shard_size)


def go_on(writer: TarWriter, first: int = 0, last: int = len(RECORDS)) -> None:
    for record, entry in zip(RECORDS[first:last], ENTRIES[first:last], strict=True):
        writer.add(record, entry.label, entry.hash)


def write(path, shard_size=SHARD_SIZE):
    writer = start(path, shard_size)
    assert writer.restore([]) == 0
    go_on(writer)
    writer.finish()
    return path


def content(folder) -> dict[str, str]:
    """Digest of every file."""
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in folder.iterdir()}


def test_members_are_what_was_added(tmp_path):
    out = write(tmp_path / "out")
    shards = sorted(out.glob("*.tar"))
    assert len(shards) > 2 and [shard.name for shard in shards] == [f"shard-{i:06d}.tar" for i in range(len(shards))]
    members = []
    for shard in shards:
        assert shard.stat().st_size <= SHARD_SIZE
        with tarfile.open(shard) as archive:
            for info in archive:
                assert (info.mtime, info.uid, info.gid, info.mode) == (0, 0, 0, 0o644) and info.isreg()
                members.append((info.name, archive.extractfile(info).read()))
    expected = []
    for number, (record, label) in enumerate(zip(RECORDS, LABELS, strict=True)):
        expected += [(f"{number:09d}.jpg", record.payload), (f"{number:09d}.cls", str(label).encode())]
    assert members == expected
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out"]


def test_shards_are_as_full_as_their_size_allows(tmp_path):
    table = np.load(write(tmp_path / "out") / "records.npy", allow_pickle=False)
    for shard in range(int(table["shard"].max())):
        inside = sum(sample_size(int(size)) for size in table["size"][table["shard"] == shard])
        behind = sample_size(int(table["size"][table["shard"] == shard + 1][0]))
        assert inside + 2 * BLOCK <= SHARD_SIZE < inside + behind + 2 * BLOCK


def test_record_larger_than_a_shard_gets_its_own(tmp_path):
    assert len(list(write(tmp_path / "out", shard_size=1).glob("*.tar"))) == len(RECORDS)


@pytest.mark.skipif(shutil.which("tar") is None, reason="no tar command")
def test_gnu_tar_lists_every_member(tmp_path):
    out = write(tmp_path / "out", shard_size=1 << 30)
    done = subprocess.run(["tar", "-tf", out / "shard-000000.tar"], capture_output=True, text=True, check=True)
    assert len(done.stdout.split()) == 2 * len(RECORDS) and done.stderr == ""


def test_index_is_that_of_dalis_tool(tmp_path):
    pytest.importorskip("nvidia.dali", reason="nvidia-dali-cuda120 is not installed")
    out = write(tmp_path / "out")
    for shard in out.glob("*.tar"):
        theirs = tmp_path / "theirs.idx"
        code = "import sys; from wds2idx import IndexCreator\nwith IndexCreator(*sys.argv[1:]) as c: c.create_index()"
        subprocess.run([sys.executable, "-c", code, shard, theirs], check=True, capture_output=True)
        assert shard.with_suffix(".idx").read_text() == theirs.read_text()


def test_dali_reads_the_shards_by_their_index(tmp_path):
    dali = pytest.importorskip("nvidia.dali", reason="nvidia-dali-cuda120 is not installed")
    out = write(tmp_path / "out")
    paths = [str(path) for path in sorted(out.glob("*.tar"))]
    indices = [str(path) for path in sorted(out.glob("*.idx"))]

    @dali.pipeline_def(batch_size=len(RECORDS), num_threads=1, device_id=None, prefetch_queue_depth=1)
    def pipeline():
        return tuple(dali.fn.readers.webdataset(paths=paths, index_paths=indices, ext=["jpg", "cls"]))

    streams, labels = pipeline().run()
    assert [streams.at(i).tobytes() for i in range(len(RECORDS))] == [record.payload for record in RECORDS]
    assert [int(labels.at(i).tobytes()) for i in range(len(RECORDS))] == LABELS


@pytest.mark.parametrize("done", [0, 1, 4, len(RECORDS)])
def test_resumed_after_suspend_it_is_the_same_to_the_byte(tmp_path, done):
    whole = content(write(tmp_path / "whole"))
    first = start(tmp_path / "out")
    first.restore([])
    go_on(first, 0, done)
    first.suspend(), first.suspend()
    second = start(tmp_path / "out")
    assert second.restore(ENTRIES[:done]) == done == len(second)
    go_on(second, done)
    second.finish()
    second.suspend(), second.discard()
    assert content(tmp_path / "out") == whole


@pytest.fixture(scope="module")
def unfinished(tmp_path_factory):
    """What a conversion leaves that is killed between its last record and `finish`, and what it would have become."""
    folder = tmp_path_factory.mktemp("tar")
    whole = write(folder / "whole")
    writer = start(folder / "out")
    writer.restore([])
    go_on(writer)
    writer.suspend()
    return folder / "out.partial", whole


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_resumed_after_any_damage_it_is_the_same_to_the_byte(tmp_path_factory, unfinished, data):
    """Cut, overwrite or remove any shard of the partial output: every record in front of the damage is taken over."""
    partial, whole = unfinished
    folder = tmp_path_factory.mktemp("resume")
    shutil.copytree(partial, folder / "out.partial")
    (folder / "out.partial" / "records.npy").write_bytes(b"torn")
    shard = data.draw(st.sampled_from(sorted((folder / "out.partial").glob("*.tar"))))
    number, size = int(shard.stem[-6:]), shard.stat().st_size
    at = data.draw(st.integers(0, size - 1))
    how = data.draw(st.sampled_from(["cut", "overwrite", "remove"]))
    if how == "cut":
        with open(shard, "r+b") as file:
            file.truncate(at)
    elif how == "overwrite":
        with open(shard, "r+b") as file:
            file.seek(at)
            old = file.read(1)
            file.seek(at)
            file.write(bytes([old[0] ^ 1]))
    else:
        shard.unlink()
        at = 0
    table = np.load(whole / "records.npy", allow_pickle=False)
    ends = table["pointer"] - BLOCK + [sample_size(int(n)) for n in table["size"]]
    hit = (table["shard"] == number) & (ends > at)  # none where the damage is behind the last record of the shard
    untouched = int(hit.argmax()) if hit.any() else len(RECORDS)
    writer = start(folder / "out")
    taken = writer.restore(ENTRIES)
    assert taken == untouched
    go_on(writer, taken)
    writer.finish()
    assert content(folder / "out") == content(whole)
    shutil.rmtree(folder)


def test_other_entries_than_those_on_disk_are_not_taken_over(tmp_path):
    writer = start(tmp_path / "out")
    writer.restore([])
    go_on(writer, 0, 5)
    writer.suspend()
    other = [*ENTRIES[:2], ENTRIES[2]._replace(label=1), *ENTRIES[3:5]]
    writer = start(tmp_path / "out")
    assert writer.restore(other) == 2
    writer.discard(), writer.discard()
    assert list(tmp_path.iterdir()) == []


def test_records_outlive_a_killed_process(tmp_path):
    script = (
        "import os, sys; from pathlib import Path; from fastvarcon.data_prep.record import Record\n"
        "from fastvarcon.data_prep.tar_writer import TarWriter\n"
        "writer = TarWriter(Path(sys.argv[1]), 9, ['x'], {}, 9000); writer.restore([])\n"
        "for i in range(9): writer.add(Record(bytes([i]) * 100, 0, 1, 1), 0, 0)\n"
        "os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", script, tmp_path / "out"], check=False)
    assert not (tmp_path / "out").exists()
    writer = TarWriter(tmp_path / "out", 9, ["x"], {}, 9000)
    assert writer.restore([Entry(0, JPG, 1, 1, 100, content_hash(bytes([i]) * 100)) for i in range(9)]) == 9
    writer.finish()
    assert [bytes(TarShards(tmp_path / "out").record(i)) for i in range(9)] == [bytes([i]) * 100 for i in range(9)]


def test_second_writer_of_the_same_folder_is_refused(tmp_path):
    writer = start(tmp_path / "out")
    with pytest.raises(UserError, match="is being written by another process"):
        start(tmp_path / "out")
    writer.discard()
    write(tmp_path / "out")


def test_raw_records_are_refused(tmp_path):
    writer = start(tmp_path / "out")
    writer.restore([])
    with pytest.raises(UserError, match="--mode jpg"):
        writer.add(Record(bytes(3), RAW, 1, 1), 0, 0)
    writer.discard()


def test_only_an_empty_folder_is_replaced(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="is a file"):
        start(tmp_path / "file")
    (tmp_path / "full" / "x").mkdir(parents=True)
    with pytest.raises(UserError, match="is not empty"):
        start(tmp_path / "full")
    with pytest.raises(UserError, match="does not exist"):
        start(tmp_path / "none" / "out")
    (tmp_path / "out.partial").write_text("x")
    with pytest.raises(UserError, match=r"out\.partial cannot be written"):
        start(tmp_path / "out")
    (tmp_path / "empty").mkdir()
    assert len(TarShards(write(tmp_path / "empty"))) == len(RECORDS)
