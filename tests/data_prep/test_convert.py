"""Conversion: what is stored, what is refused, what is left behind."""

import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from fastvarcon import cli
from fastvarcon.commands.convert import parse_size
from fastvarcon.data.beton import JPG, RAW, Beton
from fastvarcon.data.image_folder import scan_image_folder
from fastvarcon.data.records import content_hash
from fastvarcon.data_prep.beton_writer import MIN_PAGE_SIZE, BetonWriter
from fastvarcon.data_prep.convert import convert, part_of
from fastvarcon.data_prep.encode import EncodeSettings
from fastvarcon.data_prep.record import Record
from fastvarcon.data_prep.sources import Source, open_source
from fastvarcon.errors import UserError


def run(folder, out, mode="jpg", workers=1, on_error="stop", **settings):
    convert(open_source(folder), out, EncodeSettings(mode, **settings), workers=workers, on_error=on_error)
    return Beton(out)


def test_raw_stores_the_pixels_and_the_classes(image_folder, tmp_path):
    source, file = scan_image_folder(image_folder), run(image_folder, tmp_path / "a.beton", "raw")
    assert file.classes == ["ant", "bee", "cat"] and (file.labels == source.labels).all() and (file.modes == RAW).all()
    for index, path in enumerate(source.paths):
        assert bytes(file.record(index)) == np.asarray(Image.open(path).convert("RGB")).tobytes()


def test_workers_do_not_change_the_file(image_folder, tmp_path, monkeypatch):
    monkeypatch.setattr("fastvarcon.data_prep.workers.CHUNK", 2)
    for workers in (1, 2):
        run(image_folder, tmp_path / f"{workers}.beton", workers=workers)
    assert (tmp_path / "1.beton").read_bytes() == (tmp_path / "2.beton").read_bytes()


def test_keep_copies_jpegs_and_re_encodes_the_rest(image_folder, tmp_path):
    source, file = scan_image_folder(image_folder), run(image_folder, tmp_path / "a.beton", "keep")
    assert (file.modes == JPG).all()
    kept = [bytes(file.record(i)) == path.read_bytes() for i, path in enumerate(source.paths)]
    assert kept == [path.suffix == ".jpg" for path in source.paths]


def test_max_resolution_never_enlarges(image_folder, tmp_path):
    source, file = scan_image_folder(image_folder), run(image_folder, tmp_path / "a.beton", max_resolution=30)
    for path, width, height in zip(source.paths, file.widths, file.heights, strict=True):
        original = Image.open(path).size
        assert max(width, height) == min(30, max(original))


@pytest.fixture
def broken_folder(image_folder):
    whole = (image_folder / "bee" / "2.jpg").read_bytes()
    (image_folder / "bee" / "2.jpg").write_bytes(whole[: len(whole) // 2])
    (image_folder / "cat" / "1.png").write_bytes(b"hello")
    return image_folder


@pytest.mark.parametrize("mode", ["jpg", "keep"])
def test_broken_image_stops_with_its_name_and_keeps_what_is_done(broken_folder, tmp_path, mode):
    with pytest.raises(UserError, match=r"bee/2\.jpg.*--on-error skip; 6 of 15 images .* the same command goes on"):
        run(broken_folder, tmp_path / "a.beton", mode)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.beton.journal", "a.beton.partial", "images"]


def test_first_image_broken_leaves_nothing(image_folder, tmp_path):
    (image_folder / "ant" / "0.jpg").write_bytes(b"hello")
    with pytest.raises(UserError, match=r"ant/0\.jpg"):
        run(image_folder, tmp_path / "a.beton")
    assert [p.name for p in tmp_path.iterdir()] == ["images"]


@pytest.mark.parametrize("workers", [1, 2])
def test_broken_images_are_skipped_and_listed(broken_folder, tmp_path, workers, monkeypatch):
    monkeypatch.setattr("fastvarcon.data_prep.workers.CHUNK", 2)
    source, file = (
        scan_image_folder(broken_folder),
        run(broken_folder, tmp_path / "a.beton", workers=workers, on_error="skip"),
    )
    good = [i for i, path in enumerate(source.paths) if not str(path).endswith(("bee/2.jpg", "cat/1.png"))]
    assert len(file) == 13 and file.labels.tolist() == source.labels[good].tolist()
    listed = (tmp_path / "a.beton.skipped.txt").read_text().splitlines()
    assert ["bee/2.jpg" in listed[0], "cat/1.png" in listed[1], len(listed)] == [True, True, 2]


def test_failed_conversion_keeps_the_old_file(image_folder, tmp_path):
    run(image_folder, tmp_path / "a.beton")
    before = (tmp_path / "a.beton").read_bytes()
    (image_folder / "ant" / "0.jpg").write_bytes(b"hello")
    with pytest.raises(UserError):
        run(image_folder, tmp_path / "a.beton")
    assert (tmp_path / "a.beton").read_bytes() == before


def test_folder_of_broken_images_alone(tmp_path):
    (tmp_path / "images" / "x").mkdir(parents=True)
    (tmp_path / "images" / "x" / "a.jpg").write_bytes(b"hello")
    with pytest.raises(UserError, match="none of the 1 files"):
        run(tmp_path / "images", tmp_path / "a.beton", on_error="skip")
    assert [p.name for p in tmp_path.iterdir()] == ["images"]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda root: None, "does not exist"),
        (lambda root: root.mkdir(), "no class folders"),
        (lambda root: root.write_text("x"), "is a file"),
        (lambda root: (root / "x").mkdir(parents=True), "none of the 1 class folders"),
    ],
)
def test_wrong_folders(tmp_path, make, message):
    make(tmp_path / "images")
    with pytest.raises(UserError, match=message):
        scan_image_folder(tmp_path / "images")


def test_records_never_cross_a_page_and_pages_grow_for_a_large_one(tmp_path, rng):
    sizes = [int(n) for n in rng.integers(1, 500, 40)] + [1200] + [int(n) for n in rng.integers(1, 500, 10)]
    with BetonWriter(tmp_path / "a.beton", len(sizes), ["x"]) as writer:
        for width in sizes:
            payload = bytes(3 * width * 1000)
            writer.add(Record(payload, RAW, 1000, width), 0, content_hash(payload))
    file = Beton(tmp_path / "a.beton")
    starts = file._pointers.astype(np.int64)
    assert file.page_size == 2 * MIN_PAGE_SIZE
    assert (starts // file.page_size == (starts + file.sizes - 1) // file.page_size).all()


def test_quality_and_filter_reach_the_file(tmp_path, rng):
    """Noise: shrunk by averaging it turns grey, by picking pixels it stays noise; and low quality takes fewer bytes."""
    (tmp_path / "images" / "x").mkdir(parents=True)
    Image.fromarray(rng.integers(0, 256, (400, 400, 3), dtype=np.uint8)).save(tmp_path / "images" / "x" / "0.png")
    small = run(tmp_path / "images", tmp_path / "a.beton", "raw", max_resolution=50)
    assert np.frombuffer(small.record(0), np.uint8).std() < 20
    sizes = [int(run(tmp_path / "images", tmp_path / "a.beton", quality=quality).sizes[0]) for quality in (20, 90)]
    assert 3 * sizes[0] < sizes[1]


def test_output_through_a_link_replaces_its_target(image_folder, tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link.beton").symlink_to(tmp_path / "real" / "t.beton")
    run(image_folder, tmp_path / "link.beton")
    assert (tmp_path / "link.beton").is_symlink() and len(Beton(tmp_path / "real" / "t.beton")) == 15


def test_output_that_is_no_file(image_folder, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UserError, match="not a regular file"):
        run(image_folder, tmp_path / "pipe")


def test_pipe_among_the_images_is_no_hang(image_folder, tmp_path):
    os.mkfifo(image_folder / "ant" / "z.png")
    with pytest.raises(UserError, match=r"z\.png: not a regular file"):
        run(image_folder, tmp_path / "a.beton")


def test_hidden_folders_are_passed_over(image_folder):
    (image_folder / "ant" / ".thumbs").mkdir()
    (image_folder / "ant" / ".thumbs" / "a.jpg").write_bytes((image_folder / "ant" / "0.jpg").read_bytes())
    assert len(scan_image_folder(image_folder).paths) == 15


def test_names_with_control_characters_are_spelled_out(image_folder, tmp_path, monkeypatch, capsys):
    (image_folder / "ant" / "a\n\x1b[31mb.png").write_bytes(b"broken")
    argv = ["fastvarcon", "convert", str(image_folder), str(tmp_path / "a.beton")]
    monkeypatch.setattr(sys, "argv", argv)
    with pytest.raises(SystemExit):
        cli.main()
    said = capsys.readouterr()
    assert said.err.count("\n") == 1 and r"ant/a\n\x1b[31mb.png" in said.err
    monkeypatch.setattr(sys, "argv", [*argv, "--on-error", "skip"])
    cli.main()
    listed = (tmp_path / "a.beton.skipped.txt").read_text()
    assert listed.count("\n") == 1 and r"ant/a\n\x1b[31mb.png: not an image" in listed
    assert "\x1b" not in capsys.readouterr().out


@pytest.mark.parametrize("name", ["a.beton.skipped.txt", "a.beton.journal", "a.beton.partial"])
def test_a_folder_in_the_place_of_a_file_is_named(image_folder, tmp_path, name):
    (tmp_path / name).mkdir()
    with pytest.raises(UserError, match=name):
        run(image_folder, tmp_path / "a.beton")
    assert (tmp_path / name).is_dir() and not (tmp_path / "a.beton").exists()


def test_broken_file_whose_name_is_no_text_is_listed(image_folder, tmp_path):
    with open(os.fsencode(image_folder) + b"/ant/b\xff.png", "wb") as file:
        file.write(b"broken")
    assert len(run(image_folder, tmp_path / "a.beton", on_error="skip")) == 15
    assert r"b\xff.png: " in (tmp_path / "a.beton.skipped.txt").read_text()


def test_workers_end_with_a_killed_conversion(image_folder, tmp_path):
    """kill -9 of the parent while its workers are busy: none of them lives on."""
    for index in range(400):
        shutil.copy(image_folder / "ant" / "0.jpg", image_folder / "ant" / f"more{index}.jpg")
    code = (
        "import sys, time; from pathlib import Path; from fastvarcon.data_prep import convert as module\n"
        "from fastvarcon.data_prep.sources import Source, open_source\n"
        "class Slow(module.Progress):\n"
        "    def advance(self, images): print('ready', flush=True); time.sleep(60)\n"
        "if __name__ == '__main__':\n"
        "    module.convert(open_source(Path(sys.argv[1])), Path(sys.argv[2]), module.EncodeSettings(),\n"
        "                   workers=2, on_error='stop', progress=Slow())\n"
    )
    script = tmp_path / "slow.py"
    script.write_text(code)
    command = [sys.executable, str(script), str(image_folder), str(tmp_path / "a.beton")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"ready\n"
    process.kill()
    process.wait()
    process.stdout.read()  # returns when the last worker, which shares the pipe, has gone


def test_every_record_has_its_content_hash(image_folder, tmp_path):
    file = run(image_folder, tmp_path / "a.beton")
    assert file.hashes.tolist() == [content_hash(file.record(i)) for i in range(15)]


def test_workers_import_no_torch(image_folder, tmp_path, run_python):
    """Neither a worker nor the server that starts them: it would take seconds and hundreds of megabytes each."""
    code = "import sys, fastvarcon.data_prep.workers, fastvarcon.cli; print([m for m in sys.modules if m == 'torch'])"
    assert run_python("-c", code).stdout == "[]\n"


class Pixels(Source):
    """A source that hands out pixels and bytes; a worker reads from a copy of its own."""

    name, classes, labels = "pixels", ["even", "odd"], np.arange(100) % 2

    def __len__(self):
        return 100

    def key(self, index):
        return f"row {index}"

    def read(self, index):
        if index == 99:
            return b"hello"
        return np.full((4, 6, 3), index, dtype=np.uint8)


@pytest.mark.parametrize("workers", [1, 2])
def test_source_of_pixels(tmp_path, workers):
    done = convert(Pixels(), tmp_path / "a.beton", EncodeSettings("raw"), workers=workers, on_error="skip")
    file = Beton(tmp_path / "a.beton")
    assert [file.record(i)[0] for i in range(99)] == list(range(99)) and file.labels.tolist() == [0, 1] * 49 + [0]
    assert done.written == 99 and done.skipped == ["row 99: not an image that can be read"]


def test_class_names_are_checked_before_any_work(tmp_path, monkeypatch):
    monkeypatch.setattr(Pixels, "classes", ["even", "o\ud800dd"])
    monkeypatch.setattr(Pixels, "read", lambda self, index: pytest.fail("it was read"))
    with pytest.raises(UserError, match=r"pixels has a class named 'o\\ud800dd', which is not UTF-8 text: rename it"):
        convert(Pixels(), tmp_path / "a.beton", EncodeSettings("raw"), workers=1, on_error="skip")
    assert not list(tmp_path.iterdir())


class Failing(Pixels):
    def __init__(self, error):
        self.error = error

    def read(self, index):
        if index == 50:
            raise self.error
        return super().read(index)


@pytest.mark.parametrize("workers", [1, 2])
def test_source_that_ends_early(tmp_path, workers):
    with pytest.raises(UserError, match="the shard has gone: fetch it again"):
        convert(
            Failing(UserError("the shard has gone: fetch it again")),
            tmp_path / "a.beton",
            EncodeSettings(),
            workers=workers,
            on_error="skip",
        )


def test_worker_that_fails_says_why(image_folder, tmp_path, run_python):
    script = tmp_path / "fails.py"
    script.write_text(
        "import sys; from pathlib import Path; from fastvarcon.data_prep import workers\n"
        "from fastvarcon.data_prep.convert import EncodeSettings, convert\n"
        "from fastvarcon.data_prep.sources import Source, open_source\n"
        "def fail(*_): raise MemoryError('no more')\n"
        "workers.CHUNK, workers.encode = 4, fail\n"
        "if __name__ == '__main__':\n"
        "    convert(open_source(Path(sys.argv[1])), Path(sys.argv[2]), EncodeSettings(), workers=2, on_error='skip')\n"
    )
    said = run_python(script, image_folder, tmp_path / "a.beton").stderr
    assert "MemoryError: no more" in said and "UserError: a conversion worker died, for want of memory" in said


def test_shards_hold_contiguous_parts_and_all_classes(image_folder, tmp_path):
    run(image_folder, tmp_path / "whole.beton")
    whole, seen = Beton(tmp_path / "whole.beton"), []
    for number in (1, 2, 3, 4):
        done = convert(
            open_source(image_folder),
            tmp_path / "a.b.beton",
            EncodeSettings(),
            workers=1,
            on_error="stop",
            shard=(number, 4),
        )
        assert done.path == tmp_path / f"a.b-0000{number}-of-00004.beton"
        file = Beton(done.path)
        assert file.classes == whole.classes and file.extra["shard"] == [number, 4]
        seen += zip(file.labels.tolist(), file.hashes.tolist(), strict=True)
    assert seen == list(zip(whole.labels.tolist(), whole.hashes.tolist(), strict=True))


@pytest.mark.parametrize(("images", "count"), [(15, 1), (15, 4), (15, 15), (1_281_167, 64)])
def test_parts_cover_everything_once_and_evenly(images, count):
    parts = [part_of(images, (number, count)) for number in range(1, count + 1)]
    assert [i for part in parts for i in (part.start, part.stop)] == sorted(
        i for part in parts for i in (part.start, part.stop)
    )
    assert sum(map(len, parts)) == images and max(map(len, parts)) - min(map(len, parts)) <= 1


def test_more_shards_than_images():
    with pytest.raises(UserError, match="--shard 1/16 of 15 images is empty"):
        part_of(15, (1, 16))


def test_tar_holds_no_raw_pixels(image_folder, tmp_path):
    with pytest.raises(UserError, match="--format tar holds JPEG images"):
        convert(
            open_source(image_folder),
            tmp_path / "t",
            EncodeSettings("raw"),
            workers=1,
            on_error="stop",
            format="tar",
        )
    assert [p.name for p in tmp_path.iterdir()] == ["images"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--preset", "256", "--quality", "80"], "--preset 256 sets mode, resolution and quality"),
        (["--preset", "original", "--mode", "keep"], "--preset original sets"),
        (["--preset", "400", "--max-resolution", "300"], "--preset 400 sets"),
        (["--shard", "0/3"], "--shard takes"),
        (["--shard", "4/3"], "--shard takes"),
        (["--shard", "one"], "--shard takes"),
        (["--shard", "1/99"], "--shard 1/99 of 15 images is empty"),
        (["--shard-size", "1GB"], "--shard-size belongs to --format tar"),
        (["--format", "tar", "--shard-size", "much"], "--shard-size takes a size"),
        (["--format", "tar", "--shard-size", "0MB"], "--shard-size takes a size"),
        (["--format", "tar", "--mode", "raw"], "--format tar holds JPEG images"),
        (["--check", "decode"], "--check belongs to --mode keep"),
        (["--background", "whitish"], "--background whitish is not a colour: give a name, as white, or #rrggbb"),
        (["--depth", "7"], "--depth must lie between 8 and 16 bits, got 7"),
        (["--depth", "17"], "--depth must lie between 8 and 16 bits, got 17"),
        (["--workers", "-1"], "--workers must be 0"),
        (["--per-class", "0"], "--per-class must be at least 1"),
    ],
)
def test_flags_that_do_not_fit(image_folder, tmp_path, monkeypatch, capsys, flags, message):
    monkeypatch.setattr(sys, "argv", ["fastvarcon", "convert", str(image_folder), str(tmp_path / "a.beton"), *flags])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == 2 and message in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["images"]


def said_by_convert(monkeypatch, capsys, *args) -> list[str]:
    monkeypatch.setattr(sys, "argv", ["fastvarcon", "convert", *map(str, args)])
    cli.main()
    return capsys.readouterr().out.splitlines()


@pytest.fixture
def icons(tmp_path):
    """Black squares on nothing."""
    for name in ("a", "b"):
        (tmp_path / "icons" / name).mkdir(parents=True)
        for number in range(3):
            image = Image.new("RGBA", (16, 16))
            image.paste((0, 0, 0, 255), (4, 4, 8 + number, 12))
            image.save(tmp_path / "icons" / name / f"{number}.png")
    return tmp_path / "icons"


@pytest.mark.parametrize(("flags", "shade"), [((), 255), (("--background", "#808080"), 128)])
def test_transparent_pixels_are_said_once(icons, tmp_path, monkeypatch, capsys, flags, shade):
    said = said_by_convert(monkeypatch, capsys, icons, tmp_path / "a.beton", "--mode", "raw", *flags)
    assert sum(line.startswith("6 images have transparent pixels: they were laid on") for line in said) == 1
    file = Beton(tmp_path / "a.beton")
    assert {value for index in range(6) for value in bytes(file.record(index))} == {0, shade}


def test_dark_sixteen_bits_are_warned_of_with_the_depth_that_helps(tmp_path, monkeypatch, capsys, rng):
    for name in ("a", "b"):
        (tmp_path / "scans" / name).mkdir(parents=True)
        for number in range(2):
            values = rng.integers(0, 4000, (16, 16)).astype(np.uint16)
            Image.fromarray(values).save(tmp_path / "scans" / name / f"{number}.png")
    args = (tmp_path / "scans", tmp_path / "a.beton", "--mode", "raw")
    (warning,) = (line for line in said_by_convert(monkeypatch, capsys, *args) if line.startswith("warning"))
    assert "of 4 images of 16 bits is 3,9" in warning and warning.endswith("convert again with --depth 12")
    said = said_by_convert(monkeypatch, capsys, *args, "--depth", "12")
    assert not any("warning" in line for line in said)
    assert max(bytes(Beton(tmp_path / "a.beton").record(0))) > 240


@pytest.mark.parametrize("flags", [("--depth", "12"), ("--background", "black")])
def test_flags_that_change_no_image_are_said(image_folder, tmp_path, monkeypatch, capsys, flags):
    said = said_by_convert(monkeypatch, capsys, image_folder, tmp_path / "a.beton", *flags)
    assert sum(line.startswith(f"warning: {' '.join(flags)} changed nothing: no image has") for line in said) == 1


@pytest.mark.parametrize(
    ("preset", "expected"),
    [("256", ("jpg", 256, 90)), ("400", ("jpg", 400, 90)), ("500", ("jpg", 500, 90)), ("original", ("keep", None, 90))],
)
def test_presets(image_folder, tmp_path, monkeypatch, preset, expected):
    out = tmp_path / "a.beton"
    monkeypatch.setattr(sys, "argv", ["fastvarcon", "convert", str(image_folder), str(out), "--preset", preset])
    cli.main()
    extra = Beton(out).extra
    assert (extra["mode"], extra["max_resolution"], extra["quality"]) == expected


@pytest.mark.parametrize(("text", "size"), [("500MB", 500_000_000), ("1gb", 10**9), ("1.5KB", 1500)])
def test_sizes(text, size):
    assert parse_size(text) == size
