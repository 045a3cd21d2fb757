"""Shards as one dataset, and how `open_records` finds them."""

import os
import re

import numpy as np
import pytest

from fastvarcon.data.backends import open_backend
from fastvarcon.data.beton import RAW, Beton, BetonError
from fastvarcon.data.beton_set import BetonSet
from fastvarcon.data.records import content_hash, open_records
from fastvarcon.data_prep.beton_writer import BetonWriter
from fastvarcon.data_prep.merge import open_parts
from fastvarcon.data_prep.record import Record
from fastvarcon.errors import UserError

SIZES = [3, 1, 4]  # records in each shard


def payload(shard: int, index: int) -> bytes:
    return bytes([shard, index, 7] * 6)


def write(path, shard: int, count: int, classes=("ant", "bee"), of: int | None = 3):
    """`count` raw images of 2 x 3 pixels, all labelled shard % 2."""
    extra = {} if of is None else {"shard": [shard, of]}
    with BetonWriter(path, count, list(classes), extra) as writer:
        for index in range(count):
            record = payload(shard, index)
            writer.add(Record(record, RAW, 2, 3), shard % 2, content_hash(record))
    return path


@pytest.fixture
def shards(tmp_path):
    return [write(tmp_path / f"train-{i}.beton", i, count) for i, count in enumerate(SIZES, start=1)]


EXPECTED = [(shard, index) for shard, count in enumerate(SIZES, start=1) for index in range(count)]


@pytest.mark.parametrize("how", ["folder", "pattern"])
def test_shards_are_one_dataset_in_the_order_of_their_names(tmp_path, shards, how):
    records = open_records(tmp_path if how == "folder" else tmp_path / "train-*.beton")
    assert len(records) == 8 and records.classes == ["ant", "bee"]
    assert records.hashes.tolist() == [content_hash(payload(*where)) for where in EXPECTED]
    assert [bytes(records.record(i)) for i in range(8)] == [payload(*where) for where in EXPECTED]
    assert records.labels.tolist() == [shard % 2 for shard, _ in EXPECTED]
    assert records.heights.tolist() == [2] * 8 and records.widths.tolist() == [3] * 8
    assert records.modes.tolist() == [RAW] * 8 and records.sizes.tolist() == [18] * 8
    assert [records.name(i) for i in (2, 3, 7)] == [
        f"{shards[0]} record 2",
        f"{shards[1]} record 0",
        f"{shards[2]} record 3",
    ]
    records.close(), records.close()


def test_backend_reads_across_shards(tmp_path, shards):
    batch = open_backend("cpu", tmp_path, 2).fetch(np.array([7, 0, 3]))
    assert [batch.image(slot).numpy().tobytes() for slot in range(3)] == [payload(3, 3), payload(1, 0), payload(2, 0)]


def test_will_need_asks_each_shard_for_its_part(tmp_path, shards, monkeypatch):
    records, asked = open_records(tmp_path), []
    monkeypatch.setattr(
        Beton, "will_need", lambda self, first, last: asked.append((self.path.stem[-1], range(first, last)))
    )
    for first, last in ((0, 8), (2, 4), (4, 5), (3, 3)):
        asked.clear()
        records.will_need(first, last)
        rows = [(int(shard), row) for shard, part in asked for row in part]
        assert rows == EXPECTED[first:last]


def test_will_need_of_real_files(tmp_path, shards):
    records = open_records(tmp_path)
    for first, last in ((0, 8), (2, 4), (7, 8), (5, 5)):
        records.will_need(first, last)


def test_records_that_are_held_outlive_close(tmp_path, shards):
    records = open_records(tmp_path)
    held = records.record(4)
    records.close()
    assert bytes(held) == payload(3, 0)


@pytest.mark.parametrize("number", [1, 2, 3])
def test_missing_shard(tmp_path, shards, number):
    shards[number - 1].unlink()
    with pytest.raises(UserError, match=rf"shard {number}/3 is missing.*--shard {number}/3"):
        open_records(tmp_path)


def test_all_shards_but_one_missing(tmp_path):
    """A pattern that matches a single shard is no whole dataset; named by itself the file is opened."""
    path = write(tmp_path / "a.beton", 2, 4, of=2)
    for whole in (tmp_path, tmp_path / "*.beton"):
        with pytest.raises(UserError, match="shard 1/2 is missing"):
            open_records(whole)
    assert len(open_records(path)) == 4


def test_repeated_shard(tmp_path, shards):
    write(tmp_path / "train-4.beton", 2, 2)
    with pytest.raises(UserError, match="shard 2/3 is there more than once"):
        open_records(tmp_path)


@pytest.mark.parametrize("of", [4, None])
def test_shards_of_different_conversions(tmp_path, shards, of):
    write(tmp_path / "train-4.beton", 4, 2, of=of)
    with pytest.raises(UserError, match=r"shards of different conversions|not shards of one set"):
        open_records(tmp_path)


def test_files_without_shard_numbers_are_joined_by_a_pattern_alone(tmp_path):
    for name in ("train", "val"):
        write(tmp_path / f"{name}.beton", 1, 2, of=None)
    assert len(open_records(tmp_path / "*.beton")) == 4
    with pytest.raises(UserError, match=r"holds train\.beton, val\.beton, which are not shards of one set"):
        open_records(tmp_path)
    (tmp_path / "val.beton").unlink()
    assert len(open_records(tmp_path)) == 2


@pytest.mark.parametrize("names", [("train-00001-of-00002", "val-00002-of-00002"), ("a-1-of-2", "a-2-of-3")])
@pytest.mark.parametrize("of", [2, None])
def test_shards_of_different_sets_by_their_names(tmp_path, names, of):
    """Also where their numbers make up a complete set."""
    for number, name in enumerate(names, start=1):
        write(tmp_path / f"{name}.beton", number, 2, of=of)
    for what in (tmp_path, tmp_path / "*.beton"):
        with pytest.raises(UserError, match=rf"{names[0]}\.beton, {names[1]}\.beton, which are not shards"):
            open_records(what)
    with pytest.raises(UserError, match="not shards of one set"):
        open_parts(sorted(tmp_path.glob("*.beton")))


@pytest.mark.parametrize("of", [2, None])
def test_shards_by_name_are_complete(tmp_path, of):
    for number in (1, 2):
        write(tmp_path / f"train-0000{number}-of-00002.beton", number, 2, of=of)
    assert len(open_records(tmp_path)) == 4
    (tmp_path / "train-00001-of-00002.beton").unlink()
    if of is None:  # a folder with a single file is that file, unless the file says that it is a part
        (tmp_path / "train-00003-of-00002.beton").write_bytes((tmp_path / "train-00002-of-00002.beton").read_bytes())
    with pytest.raises(UserError, match="shard 1/2 is missing"):
        open_records(tmp_path)


def test_shards_with_a_loose_file_beside_them(tmp_path):
    for number in (1, 2):
        write(tmp_path / f"train-0000{number}-of-00002.beton", number, 2, of=2)
    write(tmp_path / "val.beton", 1, 1, of=None)
    with pytest.raises(UserError, match="not shards of one set"):
        open_records(tmp_path)
    (tmp_path / "records.npy").touch()
    with pytest.raises(UserError, match=r"holds tar shards and train-00001-of-00002\.beton"):
        open_records(tmp_path)


def test_other_classes(tmp_path, shards):
    write(shards[1], 2, 1, classes=("ant", "cat"))
    with pytest.raises(UserError, match=r"train-2\.beton has other classes than .*train-1\.beton"):
        open_records(tmp_path)


def test_damaged_shard_is_named(tmp_path, shards):
    shards[2].write_bytes(shards[2].read_bytes()[:-1])
    with pytest.raises(BetonError, match=re.escape(str(shards[2]))):
        open_records(tmp_path)


def test_fingerprint_follows_every_shard(tmp_path, shards):
    before = BetonSet(shards).fingerprint
    assert BetonSet(shards).fingerprint == before
    os.utime(shards[1], ns=(1, 1))
    assert BetonSet(shards).fingerprint != before


def test_nothing_there_says_what_to_do(tmp_path):
    with pytest.raises(UserError, match="no file matches"):
        open_records(tmp_path / "none-*.beton")
    with pytest.raises(UserError, match="fastvarcon convert"):
        open_records(tmp_path / "none.beton")
    with pytest.raises(UserError, match="is a folder: convert it"):
        open_records(tmp_path)


def test_file_whose_name_looks_like_a_pattern(tmp_path):
    assert len(open_records(write(tmp_path / "a[1].beton", 1, 2))) == 2
