"""The reader on whole, damaged and foreign files. What it accepts must be safe to read."""

import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fastvarcon.data import beton
from fastvarcon.data.beton import Beton, BetonError
from fastvarcon.data.records import content_hash
from fastvarcon.data_prep.beton_writer import BetonWriter
from fastvarcon.data_prep.record import Record


def write(path: Path, labels=(0, 1, 1), classes=("ant", "bee"), sizes=((2, 3), (5, 4), (1, 1))) -> Path:
    with BetonWriter(path, len(labels), list(classes), {"quality": 90}) as writer:
        for label, (h, w) in zip(labels, sizes, strict=True):
            payload = bytes(range(3 * h * w))
            writer.add(Record(payload, beton.RAW, h, w), label, content_hash(payload))
    return path


def test_reads_back_what_was_written(tmp_path):
    file = Beton(write(tmp_path / "a.beton"))
    assert len(file) == 3 and file.classes == ["ant", "bee"] and file.extra["quality"] == 90
    assert file.labels.tolist() == [0, 1, 1]
    assert file.heights.tolist() == [2, 5, 1] and file.widths.tolist() == [3, 4, 1]
    assert [bytes(file.record(i)) for i in range(3)] == [bytes(range(n)) for n in (18, 60, 3)]


def test_every_truncation_is_noticed(tmp_path):
    """Cut at the borders of every part of the file, and at a hundred places between."""
    whole = write(tmp_path / "a.beton").read_bytes()
    cuts = {0, 1, 23, 24, 25, 24 + 1041, 24 + 2 * 1041, 24 + 2 * 1041 + 24, *range(0, len(whole), len(whole) // 100)}
    for cut in sorted({*cuts, *range(len(whole) - 80, len(whole))}):
        part = tmp_path / "part.beton"
        part.write_bytes(whole[:cut])
        with pytest.raises(BetonError, match=re.escape(str(part))):
            Beton(part)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not a .beton"),
        (b"\xff\xd8\xff" + bytes(100), "version 2"),
        (bytes(100), "version 2"),
        (b"hello", "header"),
    ],
)
def test_foreign_files(tmp_path, content, message):
    path = tmp_path / "a.beton"
    path.write_bytes(content)
    with pytest.raises(BetonError, match=message):
        Beton(path)


def test_missing_file_and_folder_say_what_to_do(tmp_path):
    with pytest.raises(BetonError, match="fastvarcon convert"):
        Beton(tmp_path / "none.beton")
    with pytest.raises(BetonError, match=r"--data\.backend folder"):
        Beton(tmp_path)


def test_unfinished_file_of_ffcv_is_refused(tmp_path):
    """ffcv writes its header with an allocation table at 0 first, and leaves it so when it dies."""
    path = write(tmp_path / "a.beton")
    content = bytearray(path.read_bytes())
    content[16:24] = bytes(8)
    path.write_bytes(content)
    with pytest.raises(BetonError, match="allocation table"):
        Beton(path)


@pytest.mark.parametrize("label", [2, -2, 2**40])
def test_label_outside_the_classes(tmp_path, label):
    path = write(tmp_path / "a.beton", labels=(0, label, 1))
    with pytest.raises(BetonError, match=f"record 1 has label {label}, outside its 2 classes"):
        Beton(path)


def test_damaged_class_names(tmp_path):
    path = write(tmp_path / "a.beton")
    path.write_bytes(path.read_bytes().replace(b'"bee"', b'"bed"'))
    with pytest.raises(BetonError, match="class list is damaged"):
        Beton(path)


def test_lowered_number_of_samples(tmp_path):
    path = write(tmp_path / "a.beton")
    content = bytearray(path.read_bytes())
    content[8] = 2
    path.write_bytes(content)
    with pytest.raises(BetonError, match="written with 3 samples, its header says 2"):
        Beton(path)


WHOLE: list[bytes] = []


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_no_mutation_reads_outside_the_file(tmp_path, data):
    """Overwrite bytes anywhere in the tables: the reader refuses, or everything it hands out lies within the file."""
    path = tmp_path / "a.beton"
    if not WHOLE:
        WHOLE.append(write(path).read_bytes())
    content = bytearray(WHOLE[0])
    tables = [*range(24 + 2 * 1041 + 3 * 24), *range(len(content) - 200, len(content))]
    for _ in range(data.draw(st.integers(1, 6))):
        at = data.draw(st.sampled_from(tables))
        patch = data.draw(
            st.sampled_from([b"\xff" * 8, bytes(8), b"\x01", b"\x80", b"\xff"]) | st.binary(min_size=1, max_size=8)
        )
        content[at : at + len(patch)] = patch
    path.write_bytes(content)
    try:
        file = Beton(path)
    except BetonError:
        return
    for index in range(len(file)):
        record = file.record(index)
        assert len(record) == file.sizes[index] > 0
        assert file.modes[index] != beton.RAW or len(record) == 3 * file.heights[index] * file.widths[index]
        bytes(record)
    assert ((file.labels >= -1) & (file.labels < len(file.classes))).all()


def test_sample_table_is_laid_out_as_ffcvs():
    assert (beton.HEADER.itemsize, beton.FIELD.itemsize) == (24, 1041)
    assert beton.sample_dtype([beton.IMAGE, np.dtype("<i8")]).itemsize == 24
