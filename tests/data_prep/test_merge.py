"""Shards -> one file. The file of the whole conversion says what must come out."""

import shutil
import sys

import pytest

from fastvarcon import cli
from fastvarcon.data.beton import Beton
from fastvarcon.data_prep.convert import convert
from fastvarcon.data_prep.encode import EncodeSettings
from fastvarcon.data_prep.merge import merge, open_parts
from fastvarcon.data_prep.sources import open_source
from fastvarcon.errors import UserError


def run(folder, out, shard=None, on_error="stop", **settings):
    done = convert(open_source(folder), out, EncodeSettings(**settings), workers=1, on_error=on_error, shard=shard)
    return done.path


@pytest.fixture
def shards(image_folder, tmp_path):
    (tmp_path / "shards").mkdir()
    return [run(image_folder, tmp_path / "shards" / "a.beton", (number, 3)) for number in (1, 2, 3)]


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)])
def test_all_shards_give_the_file_of_the_whole_conversion(image_folder, shards, tmp_path, order):
    seen = []
    merge(open_parts([shards[i] for i in order]), tmp_path / "m.beton", seen.append)
    run(image_folder, tmp_path / "whole.beton")
    assert (tmp_path / "m.beton").read_bytes() == (tmp_path / "whole.beton").read_bytes() and sum(seen) == 15


def test_command_takes_a_pattern(shards, tmp_path, monkeypatch, capsys):
    out = tmp_path / "m.beton"
    monkeypatch.setattr(sys, "argv", ["fastvarcon", "merge", str(out), str(tmp_path / "shards" / "a-*.beton")])
    cli.main()
    said = capsys.readouterr().out
    assert "15/15 images" in said and f"{out}: 15 images, 3 classes" in said and len(Beton(out)) == 15


def test_lists_of_skipped_files_are_joined(image_folder, tmp_path):
    for name in ("ant/1.png", "cat/5.png"):
        (image_folder / name).write_bytes(b"hello")
    parts = [run(image_folder, tmp_path / "a.beton", (number, 3), on_error="skip") for number in (1, 2, 3)]
    done = merge(open_parts(parts), tmp_path / "m.beton")
    listed = (tmp_path / "m.beton.skipped.txt").read_text().splitlines()
    assert done.skipped == 2 and "ant/1.png" in listed[0] and "cat/5.png" in listed[1] and len(listed) == 2
    run(image_folder, tmp_path / "whole.beton", on_error="skip")
    whole, merged = Beton(tmp_path / "whole.beton"), Beton(tmp_path / "m.beton")
    assert merged.hashes.tolist() == whole.hashes.tolist() and merged.labels.tolist() == whole.labels.tolist()


def test_other_files_are_joined_in_their_order(image_folder, tmp_path):
    a, b = run(image_folder, tmp_path / "a.beton"), run(image_folder, tmp_path / "b.beton", max_resolution=30)
    merge(open_parts([b, a]), tmp_path / "m.beton")
    merged = Beton(tmp_path / "m.beton")
    assert merged.hashes.tolist() == [*Beton(b).hashes.tolist(), *Beton(a).hashes.tolist()]
    assert merged.extra["quality"] == 90 and "max_resolution" not in merged.extra


def test_damaged_record_is_named_and_leaves_nothing(shards, tmp_path):
    file = Beton(shards[1])
    content = bytearray(shards[1].read_bytes())
    content[file.pointer(3) + 5] ^= 1
    shards[1].write_bytes(content)
    with pytest.raises(UserError, match=r"a-00002-of-00003\.beton record 3 is damaged"):
        merge(open_parts(shards), tmp_path / "m.beton")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["images", "shards"]


def test_missing_and_repeated_shards(shards):
    with pytest.raises(UserError, match="shard 2/3 is missing"):
        open_parts([shards[0], shards[2]])
    with pytest.raises(UserError, match="shard 2/3 is there more than once"):
        open_parts([*shards, shards[1]])


def test_other_classes(image_folder, shards, tmp_path):
    shutil.rmtree(image_folder / "ant")
    with pytest.raises(UserError, match="has other classes"):
        open_parts([shards[0], run(image_folder, tmp_path / "b.beton")])


def test_shards_of_other_settings(image_folder, shards, tmp_path):
    run(image_folder, shards[0].with_name("a.beton"), (2, 3), quality=80)
    with pytest.raises(UserError, match=r"a-00002-of-00003\.beton was converted with another quality than"):
        merge(open_parts(shards), tmp_path / "m.beton")


def test_output_among_the_parts(image_folder, tmp_path):
    a = run(image_folder, tmp_path / "a.beton")
    before = a.read_bytes()
    with pytest.raises(UserError, match="is one of the files to merge"):
        merge(open_parts([a, a]), a)
    assert a.read_bytes() == before


def test_files_of_ffcv_are_given_hashes(image_folder, tmp_path):
    """A file without content hashes: they are made of what is there."""
    a = run(image_folder, tmp_path / "a.beton")
    hashes = Beton(a).hashes.tolist()
    part = Beton(a)
    part.hashes = None
    merge([part], tmp_path / "m.beton")
    assert Beton(tmp_path / "m.beton").hashes.tolist() == hashes


def test_full_disk_leaves_nothing(shards, tmp_path, monkeypatch):
    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("fastvarcon.data_prep.beton_writer.os.fsync", full)
    with pytest.raises(UserError, match=r"No space left on device.*no part of it was left"):
        merge(open_parts(shards), tmp_path / "m.beton")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["images", "shards"]
