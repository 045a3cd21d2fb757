"""The reader of tar shards on whole and damaged folders. What it accepts must be safe to read."""

import io
import json
import os
import pickle
import re
import zlib

import numpy as np
import pytest
from PIL import Image

from fastvarcon.data.backends import open_backend
from fastvarcon.data.beton import JPG
from fastvarcon.data.records import content_hash, open_records
from fastvarcon.data.tar_shards import RECORD, TarShards
from fastvarcon.data_prep.record import Record
from fastvarcon.data_prep.tar_writer import TarWriter
from fastvarcon.errors import UserError

LABELS = [0, 1, -1, 1, 0]


def picture(index: int) -> Image.Image:
    return Image.new("RGB", (20 + index, 9 * index + 5), (40 * index, 90, 200))


def payload(index: int) -> bytes:
    stream = io.BytesIO()
    picture(index).save(stream, "JPEG", quality=95)
    return stream.getvalue()


@pytest.fixture
def folder(tmp_path):
    """Five records in three shards."""
    writer = TarWriter(tmp_path / "set", 5, ["ant", "bee"], {"quality": 95}, 7000)
    writer.restore([])
    for index, label in enumerate(LABELS):
        jpeg = payload(index)
        writer.add(Record(jpeg, JPG, picture(index).height, picture(index).width), label, content_hash(jpeg))
    writer.finish()
    return tmp_path / "set"


def test_reads_back_what_was_written(folder):
    records = open_records(folder)
    assert isinstance(records, TarShards) and len(list(folder.glob("*.tar"))) == 3
    assert len(records) == 5 and records.classes == ["ant", "bee"] and records.extra == {"quality": 95}
    assert records.labels.tolist() == LABELS and records.modes.tolist() == [JPG] * 5
    assert records.heights.tolist() == [5, 14, 23, 32, 41] and records.widths.tolist() == [20, 21, 22, 23, 24]
    for index in range(5):
        assert bytes(records.record(index)) == payload(index) and records.sizes[index] == len(payload(index))
        assert records.hashes[index] == content_hash(payload(index))
    assert records.name(4) == f"{folder}/shard-000002.tar record 4"
    assert records.labels.dtype == records.sizes.dtype == np.int64 and records.hashes.dtype == np.uint64
    assert records.heights.dtype == records.widths.dtype == np.int32 and records.modes.dtype == np.uint8
    records.will_need(0, 5), records.will_need(3, 3), records.will_need(4, 5)
    records.close(), records.close()


def test_backend_decodes_it(folder):
    backend = open_backend("cpu", folder, 2)
    batch = backend.fetch(np.array([4, 0, 2]))
    for slot, index in enumerate((4, 0, 2)):
        assert np.abs(batch.image(slot).numpy().astype(int) - np.asarray(picture(index))).max() <= 3
    backend.close()


def test_records_that_are_held_outlive_close(folder):
    records = TarShards(folder)
    held = records.record(1)
    records.close()
    assert bytes(held) == payload(1)


@pytest.mark.parametrize("file", ["shard-000000.tar", "shard-000002.tar", "records.npy", "dataset.json"])
@pytest.mark.parametrize("damage", ["missing", "empty", "cut", "longer"])
def test_damaged_or_missing_file_is_named(folder, file, damage):
    path = folder / file
    content = path.read_bytes()
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes({"empty": b"", "cut": content[:-1], "longer": content + b"x"}[damage])
    with pytest.raises(UserError, match=re.escape(str(path))):
        open_records(folder)


def test_overwritten_table_is_noticed(folder):
    content = (folder / "records.npy").read_bytes()
    for at in range(len(content)):
        (folder / "records.npy").write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
        try:
            records = TarShards(folder)
        except UserError:
            continue
        assert at < len(content) - 5 * RECORD.itemsize and bytes(records.record(4)) == payload(
            4
        )  # a byte of numpy's header that says the same


def rewrite(folder, table: np.ndarray | None = None, **head) -> None:
    """Replace parts of the tables, with a checksum that holds."""
    if table is not None:
        np.save(folder / "records.npy", table)
        head["records_crc32"] = zlib.crc32(table)
    old = json.loads((folder / "dataset.json").read_text())
    (folder / "dataset.json").write_text(json.dumps({**old, **head}))


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("shard", 3, "is in no shard"),
        ("pointer", 1 << 20, "starts outside its shard"),
        ("pointer", 2**64 - 1, "starts outside its shard"),
        ("size", 0, "ends outside its shard"),
        ("size", 1 << 20, "ends outside its shard"),
        ("size", 2**64 - 512, "ends outside its shard"),
        ("height", 0, "has no pixels"),
        ("height", 65535, "has more pixels than its bytes can hold"),
        ("label", 2, "is of none of the 2 classes"),
        ("label", -2, "is of none of the 2 classes"),
    ],
)
def test_impossible_records(folder, field, value, message):
    table = np.load(folder / "records.npy", allow_pickle=False)
    table[field][3] = value
    rewrite(folder, table)
    with pytest.raises(UserError, match=rf"records\.npy is damaged \(record 3 {message}"):
        TarShards(folder)


@pytest.mark.parametrize(
    "head",
    [
        {"classes": "ab"},
        {"classes": [1, 2]},
        {"extra": []},
        {"shards": 3},
        {"shards": [{"name": "../../etc/passwd", "size": 10}]},
        {"shards": [{"name": "shard-000000.tar", "size": "10"}]},
        {"shards": [{"name": "shard-000000.tar", "size": 2**70}]},
        {"shards": [{"name": "shard-000000.tar", "size": True}]},
    ],
)
def test_impossible_head(folder, head):
    rewrite(folder, **head)
    with pytest.raises(UserError, match=r"dataset\.json is damaged"):
        TarShards(folder)


@pytest.mark.parametrize("table", [np.zeros(5), np.zeros((5, 1), RECORD), np.zeros(4, RECORD), np.zeros((), RECORD)])
def test_other_tables(folder, table):
    rewrite(folder, table)
    with pytest.raises(UserError, match="does not hold the 5 records"):
        TarShards(folder)


def test_no_records(folder):
    rewrite(folder, np.zeros(0, RECORD), num_samples=0)
    with pytest.raises(UserError, match="does not hold the 0 records"):
        TarShards(folder)


def test_nothing_is_unpickled(folder, tmp_path):
    class Bomb:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "ran"),))

    np.save(folder / "records.npy", np.array([Bomb()] * 5, dtype=object), allow_pickle=True)
    with pytest.raises(UserError, match=r"records\.npy is damaged"):
        TarShards(folder)
    (folder / "records.npy").write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(UserError, match=r"records\.npy is damaged"):
        TarShards(folder)
    assert not (tmp_path / "ran").exists()


def test_pipe_in_the_place_of_a_shard_is_no_hang(folder):
    (folder / "shard-000001.tar").unlink()
    os.mkfifo(folder / "shard-000001.tar")
    with pytest.raises(UserError, match=r"shard-000001\.tar is missing"):
        TarShards(folder)


def test_fingerprint_follows_the_files(folder):
    before = TarShards(folder).fingerprint
    assert TarShards(folder).fingerprint == before
    os.utime(folder / "shard-000001.tar", ns=(1, 1))
    assert TarShards(folder).fingerprint != before
