"""Verification finds what was damaged behind the tables, and nothing else."""

import io
import shutil

import numpy as np
import pytest
from PIL import Image

from fastvarcon.data import beton
from fastvarcon.data.beton import JPG, RAW, Beton
from fastvarcon.data.records import content_hash, open_records
from fastvarcon.data_prep.beton_writer import BetonWriter
from fastvarcon.data_prep.record import Record
from fastvarcon.data_prep.tar_writer import TarWriter
from fastvarcon.data_prep.verify import conflicting_labels, verify

COUNT = 300  # several chunks


def jpeg(index: int) -> bytes:
    stream = io.BytesIO()
    pixels = np.random.default_rng(index).integers(0, 256, (8, 16, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(stream, "JPEG")
    return stream.getvalue()


JPEGS = [jpeg(index) for index in range(COUNT)]


def write_tar(path, jpegs, labels, height=8, width=16):
    writer = TarWriter(path, len(jpegs), ["ant", "bee"], {}, 40_000)
    writer.restore([])
    for payload, label in zip(jpegs, labels, strict=True):
        writer.add(Record(payload, JPG, height, width), label, content_hash(payload))
    writer.finish()
    return path


def write_beton(path, payloads, mode, height=8, width=16, extra=None):
    with BetonWriter(path, len(payloads), ["ant", "bee"], extra) as writer:
        for payload in payloads:
            writer.add(Record(payload, mode, height, width), 1, content_hash(payload))
    return path


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return write_tar(tmp_path_factory.mktemp("verify") / "set", JPEGS, [index % 2 for index in range(COUNT)])


def overwrite(path, at: int, content: bytes) -> None:
    with open(path, "r+b") as file:
        file.seek(at)
        file.write(content)


def flip(path, at: int) -> None:
    with open(path, "rb") as file:
        file.seek(at)
        overwrite(path, at, bytes([file.read(1)[0] ^ 0x10]))


def as_ffcv_writes_it(path):
    """The same records without names and hashes: the place of what is ours is struck out."""
    overwrite(path, beton.HEADER.itemsize + beton.FIELD.fields["arguments"][1], bytes(beton.EXTRA.itemsize))
    return path


@pytest.fixture
def damaged(whole, tmp_path):
    """One bit turned in each of the records 7, 140 and 299."""
    shutil.copytree(whole, tmp_path / "set")
    table = np.load(whole / "records.npy", allow_pickle=False)
    for row in table[[7, 140, 299]]:
        flip(tmp_path / "set" / f"shard-{row['shard']:06d}.tar", int(row["pointer"] + row["size"] // 2))
    return tmp_path / "set"


@pytest.mark.parametrize("decode", [True, False])
@pytest.mark.parametrize("workers", [1, 3])
def test_whole_and_damaged_records(whole, damaged, workers, decode):
    counted = []
    good = verify(open_records(whole), workers=workers, decode=decode, on_images=counted.append)
    assert good.bad == [] and good.conflicts == [] and sum(counted) == COUNT
    records = open_records(damaged)
    bad = verify(records, workers=workers, decode=decode).bad
    assert [(record.index, record.label) for record in bad] == [(7, 1), (140, 0), (299, 1)]
    assert all(record.reason.startswith(records.name(record.index)) for record in bad)
    assert all("content hash" in record.reason for record in bad)


def test_what_was_broken_when_it_was_written(tmp_path):
    """The hash agrees: decoding finds it, a quick look does not."""
    half, odd = JPEGS[3][:-60] + b"\xff\xd9", JPEGS[4][:20] + b"\0" + JPEGS[4][20:]  # PIL shows both
    jpegs = [JPEGS[0], JPEGS[1][:-40], b"\xff\xd8\xff no image", half, odd]
    records = open_records(write_tar(tmp_path / "set", jpegs, [0, 1, -1, 0, 1]))
    bad = verify(records, workers=2, decode=True).bad
    assert [record.index for record in bad] == [1, 2, 3]
    assert "broken image" in bad[0].reason and "not an image" in bad[1].reason
    assert "broken image (Corrupt JPEG data: premature end of data segment)" in bad[2].reason
    assert verify(records, workers=2, decode=False).bad == []


def test_image_of_another_size_than_its_entry(tmp_path):
    records = open_records(write_tar(tmp_path / "set", JPEGS[:2], [0, 1], height=16, width=8))
    bad = verify(records, workers=1, decode=True).bad
    assert [record.index for record in bad] == [0, 1] and "decodes to 8 x 16 pixels, its entry says 16 x 8" in str(bad)


def test_files_without_hashes_are_decoded(tmp_path):
    path = as_ffcv_writes_it(write_beton(tmp_path / "a.beton", JPEGS[:3], JPG))
    flip(path, Beton(path).pointer(1) + 3)  # a marker
    assert [record.index for record in verify(Beton(path), workers=1, decode=True).bad] == [1]


def test_raw_records_are_known_by_their_hash(tmp_path):
    pixels = [bytes([index]) * (8 * 16 * 3) for index in range(3)]
    path = write_beton(tmp_path / "a.beton", pixels, RAW)
    flip(path, Beton(path).pointer(2))
    records = Beton(path)
    assert [record.index for record in verify(records, workers=1, decode=True).bad] == [2]


def test_record_of_a_shard_is_named_with_its_file(tmp_path):
    for number in (1, 2):
        write_beton(tmp_path / f"{number}.beton", JPEGS[:2], JPG, extra={"shard": [number, 2]})
    flip(tmp_path / "2.beton", Beton(tmp_path / "2.beton").pointer(1) + 3)
    (bad,) = verify(open_records(tmp_path), workers=1, decode=True).bad
    assert bad.index == 3 and bad.reason.startswith(f"{tmp_path}/2.beton record 1:")


def test_same_bytes_under_different_labels(tmp_path):
    jpegs = [JPEGS[i] for i in (0, 1, 2, 0, 1, 3, 0)]
    records = open_records(write_tar(tmp_path / "set", jpegs, [0, 1, 0, 0, -1, 1, 1]))
    found = verify(records, workers=1, decode=True)
    assert found.conflicts == [[0, 3, 6], [1, 4]] and found.bad == []


@pytest.mark.parametrize("seed", range(5))
def test_conflicts_are_those_of_a_plain_search(seed):
    rng = np.random.default_rng(seed)
    hashes, labels = rng.integers(0, 30, 60).astype(np.uint64), rng.integers(-1, 2, 60)
    groups = [np.flatnonzero(hashes == value).tolist() for value in set(hashes.tolist())]
    assert conflicting_labels(hashes, labels) == sorted(g for g in groups if len(set(labels[g].tolist())) > 1)


def test_command(fastvarcon, whole, damaged, tmp_path):
    said = fastvarcon("verify", whole, code=0)
    assert "300 records, 0 bad, " in said and "MB/s" in said and "300/300 images" in said
    said = fastvarcon("verify", damaged, "--quick", "--workers", "2", code=1)
    assert "300 records, 3 bad" in said and said.count("bad: ") == 3
    assert "record 140: its bytes are not those that were written (content hash) [class ant]" in said
    (damaged / "shard-000001.tar").unlink()
    assert "shard-000001.tar is missing" in fastvarcon("verify", damaged, code=2)
    twice = write_tar(tmp_path / "twice", [JPEGS[0]] * 3, [1, 0, -1])
    said = fastvarcon("verify", twice, code=0)
    assert "warning: 1 images are stored more than once" in said
    assert "the same bytes: records 0 (class bee), 1 (class ant), 2 (unlabelled)" in said


def test_command_without_hashes(fastvarcon, tmp_path):
    path = as_ffcv_writes_it(write_beton(tmp_path / "a.beton", JPEGS[:2], JPG))
    assert "no content hashes to compare" in fastvarcon("verify", path, code=0)
    assert "holds no content hashes" in fastvarcon("verify", path, "--quick", code=2)
    assert "does not exist" in fastvarcon("verify", tmp_path / "none.beton", code=2)
    assert "--workers must be" in fastvarcon("verify", path, "--workers", "-1", code=2)
