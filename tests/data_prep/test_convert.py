"""Conversion: what is stored, what is refused, what is left behind."""

import os
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from fastvarcon.data.beton import JPG, RAW, Beton
from fastvarcon.data.decode import ImageError, decode_rgb
from fastvarcon.data.image_folder import scan_image_folder
from fastvarcon.data_prep.beton_writer import MIN_PAGE_SIZE, BetonWriter
from fastvarcon.data_prep.convert import EncodeSettings, convert, encode
from fastvarcon.errors import UserError


def run(folder, out, mode="jpg", workers=1, on_error="stop", **settings):
    convert(scan_image_folder(folder), out, EncodeSettings(mode, **settings), workers=workers, on_error=on_error)
    return Beton(out)


def test_raw_stores_the_pixels_and_the_classes(image_folder, tmp_path):
    source, file = scan_image_folder(image_folder), run(image_folder, tmp_path / "a.beton", "raw")
    assert file.classes == ["ant", "bee", "cat"] and (file.labels == source.labels).all() and (file.modes == RAW).all()
    for index, path in enumerate(source.paths):
        assert bytes(file.record(index)) == np.asarray(Image.open(path).convert("RGB")).tobytes()


def test_workers_do_not_change_the_file(image_folder, tmp_path, monkeypatch):
    monkeypatch.setattr("fastvarcon.data_prep.convert.CHUNK", 2)
    for workers in (1, 2):
        run(image_folder, tmp_path / f"{workers}.beton", workers=workers)
    assert (tmp_path / "1.beton").read_bytes() == (tmp_path / "2.beton").read_bytes()


def test_keep_copies_jpegs_and_re_encodes_the_rest(image_folder, tmp_path):
    source, file = scan_image_folder(image_folder), run(image_folder, tmp_path / "a.beton", "keep")
    assert (file.modes == JPG).all()
    kept = [bytes(file.record(i)) == path.read_bytes() for i, path in enumerate(source.paths)]
    assert kept == [path.suffix == ".jpg" for path in source.paths]


def test_keep_shrinks_and_turns_what_it_must(tmp_path):
    folder = tmp_path / "images" / "x"
    folder.mkdir(parents=True)
    big = Image.new("RGB", (300, 100), "red")
    exif = Image.Exif()
    exif[0x0112] = 6  # stored lying on its side
    big.save(folder / "0.jpg")
    big.save(folder / "1.jpg", exif=exif)
    file = run(tmp_path / "images", tmp_path / "a.beton", "keep", max_resolution=150)
    assert list(zip(file.widths, file.heights, strict=True)) == [(150, 50), (50, 150)]
    file = run(tmp_path / "images", tmp_path / "b.beton", "keep")
    assert list(zip(file.widths, file.heights, strict=True)) == [(300, 100), (100, 300)]


def test_max_resolution_never_enlarges(image_folder, tmp_path):
    source, file = scan_image_folder(image_folder), run(image_folder, tmp_path / "a.beton", max_resolution=30)
    for path, width, height in zip(source.paths, file.widths, file.heights, strict=True):
        original = Image.open(path).size
        assert max(width, height) == min(30, max(original))


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "LA", "CMYK", "1", "I;16"])
def test_every_mode_becomes_rgb(tmp_path, mode):
    grey = np.linspace(0, 255, 64, dtype=np.uint8).reshape(8, 8)
    image = Image.fromarray(grey.astype(np.uint16) * 257) if mode == "I;16" else Image.fromarray(grey).convert(mode)
    image.save(tmp_path / ("a.tif" if mode == "CMYK" else "a.png"))
    rgb = decode_rgb(next(tmp_path.glob("a.*")), "a")
    assert rgb.shape == (8, 8, 3)
    if mode != "1":
        assert np.abs(rgb.astype(int) - grey[..., None]).max() <= 6  # palettes and CMYK round


def test_png_named_jpeg_is_read_by_its_content(tmp_path):
    Image.new("RGB", (4, 4), "blue").save(tmp_path / "a.png")
    (tmp_path / "a.png").rename(tmp_path / "a.JPEG")
    record = encode(tmp_path / "a.JPEG", EncodeSettings("keep"))
    assert record.mode == JPG and record.payload.startswith(b"\xff\xd8")


@pytest.mark.parametrize("content", [b"", b"hello", b"\x89PNG\r\n\x1a\n" + bytes(20)])
def test_file_that_is_no_image(tmp_path, content):
    (tmp_path / "a.jpg").write_bytes(content)
    with pytest.raises(ImageError, match=r"a\.jpg"):
        encode(tmp_path / "a.jpg", EncodeSettings())


@pytest.fixture
def broken_folder(image_folder):
    whole = (image_folder / "bee" / "2.jpg").read_bytes()
    (image_folder / "bee" / "2.jpg").write_bytes(whole[: len(whole) // 2])
    (image_folder / "cat" / "1.png").write_bytes(b"hello")
    return image_folder


@pytest.mark.parametrize("mode", ["jpg", "keep"])
def test_broken_image_stops_with_its_name_and_leaves_nothing(broken_folder, tmp_path, mode):
    with pytest.raises(UserError, match=r"bee/2\.jpg.*--on-error skip"):
        run(broken_folder, tmp_path / "a.beton", mode)
    assert [p.name for p in tmp_path.iterdir()] == ["images"]


@pytest.mark.parametrize("workers", [1, 2])
def test_broken_images_are_skipped_and_listed(broken_folder, tmp_path, workers, monkeypatch):
    monkeypatch.setattr("fastvarcon.data_prep.convert.CHUNK", 2)
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


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda root: None, "does not exist"),
        (lambda root: root.mkdir(), "no class folders"),
        (lambda root: root.write_text("x"), "is a file"),
        (lambda root: (root / "x").mkdir(parents=True), "has no images"),
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
            writer.add(bytes(3 * width * 1000), mode=RAW, height=1000, width=width, label=0)
    file = Beton(tmp_path / "a.beton")
    starts = file._pointers.astype(np.int64)
    assert file.page_size == 2 * MIN_PAGE_SIZE
    assert (starts // file.page_size == (starts + file.sizes - 1) // file.page_size).all()


def test_killed_conversion_leaves_no_file_under_the_final_name_and_can_be_repeated(image_folder, tmp_path):
    """kill -9 while records are being written; the lock dies with the process."""
    script = (
        "import sys, time; from pathlib import Path; from fastvarcon.data_prep.beton_writer import BetonWriter\n"
        "with BetonWriter(Path(sys.argv[1]), 2, ['x']) as writer:\n"
        "    writer.add(bytes(3), mode=1, height=1, width=1, label=0); print('ready', flush=True); time.sleep(60)"
    )
    out = tmp_path / "a.beton"
    process = subprocess.Popen([sys.executable, "-c", script, str(out)], stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"ready\n"
    with pytest.raises(UserError, match="is being written by another process"):
        run(image_folder, out)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not out.exists()
    assert len(run(image_folder, out)) == 15
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.beton", "images"]


def test_dead_worker_is_an_error_and_not_a_hang(image_folder, tmp_path, run_python):
    script = tmp_path / "dies.py"
    script.write_text(
        "import os, sys; from pathlib import Path; from fastvarcon.data_prep import convert as module\n"
        "from fastvarcon.data.image_folder import scan_image_folder\n"
        "def die(paths, settings): os._exit(1)\n"
        "module.CHUNK, module._encode_chunk = 1, die\n"
        "if __name__ == '__main__':\n"
        "    module.convert(scan_image_folder(Path(sys.argv[1])), Path(sys.argv[2]), module.EncodeSettings(),"
        " workers=2,"
        " on_error='stop')\n"
    )
    done = run_python(script, image_folder, tmp_path / "a.beton", timeout=60)
    assert "UserError: a conversion worker died" in done.stderr
    assert sorted(p.name for p in tmp_path.iterdir()) == ["dies.py", "images"]


def test_quality_and_filter_reach_the_file(tmp_path, rng):
    """Noise: shrunk by averaging it turns grey, by picking pixels it stays noise; and low quality takes fewer bytes."""
    (tmp_path / "images" / "x").mkdir(parents=True)
    Image.fromarray(rng.integers(0, 256, (400, 400, 3), dtype=np.uint8)).save(tmp_path / "images" / "x" / "0.png")
    small = run(tmp_path / "images", tmp_path / "a.beton", "raw", max_resolution=50)
    assert np.frombuffer(small.record(0), np.uint8).std() < 20
    sizes = [int(run(tmp_path / "images", tmp_path / "a.beton", quality=quality).sizes[0]) for quality in (20, 90)]
    assert 3 * sizes[0] < sizes[1]


def test_full_disk_leaves_nothing_and_says_so(image_folder, tmp_path, monkeypatch):
    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("fastvarcon.data_prep.beton_writer.os.fsync", full)
    with pytest.raises(UserError, match="No space left on device"):
        run(image_folder, tmp_path / "a.beton")
    assert [p.name for p in tmp_path.iterdir()] == ["images"]


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


def test_links_back_and_hidden_folders_do_not_multiply_images(image_folder):
    (image_folder / "ant" / "self").symlink_to(image_folder / "ant")
    (image_folder / "ant" / ".thumbs").mkdir()
    (image_folder / "ant" / ".thumbs" / "a.jpg").write_bytes((image_folder / "ant" / "0.jpg").read_bytes())
    assert len(scan_image_folder(image_folder).paths) == 15


def test_splits_in_the_place_of_classes(image_folder, tmp_path):
    for split in ("train", "val"):
        (tmp_path / "data" / split).mkdir(parents=True)
        shutil.copytree(image_folder, tmp_path / "data" / split / "all")
    with pytest.raises(UserError, match="holds the splits train, val"):
        scan_image_folder(tmp_path / "data")


def test_class_name_that_is_no_text(image_folder):
    os.mkdir(os.fsencode(image_folder) + b"/a\xff")
    with pytest.raises(UserError, match="not readable text"):
        scan_image_folder(image_folder)


def test_broken_file_whose_name_is_no_text_is_listed(image_folder, tmp_path):
    with open(os.fsencode(image_folder) + b"/ant/b\xff.png", "wb") as file:
        file.write(b"broken")
    assert len(run(image_folder, tmp_path / "a.beton", on_error="skip")) == 15
    assert b"b\xff.png" in (tmp_path / "a.beton.skipped.txt").read_bytes()


@pytest.mark.parametrize("mode", ["I", "F"])
def test_pixels_without_a_range_are_refused(tmp_path, mode):
    Image.new(mode, (4, 4)).save(tmp_path / "a.tif")
    with pytest.raises(ImageError, match="32-bit"):
        decode_rgb(tmp_path / "a.tif", "a.tif")


def test_workers_end_with_a_killed_conversion(image_folder, tmp_path):
    """kill -9 of the parent while its workers are busy: none of them lives on."""
    for index in range(400):
        shutil.copy(image_folder / "ant" / "0.jpg", image_folder / "ant" / f"more{index}.jpg")
    code = (
        "import sys, time; from pathlib import Path; from fastvarcon.data_prep import convert as module\n"
        "from fastvarcon.data.image_folder import scan_image_folder\n"
        "def report(images): print('ready', flush=True); time.sleep(60)\n"
        "if __name__ == '__main__':\n"
        "    module.convert(scan_image_folder(Path(sys.argv[1])), Path(sys.argv[2]), module.EncodeSettings(),\n"
        "                   workers=2, on_error='stop', on_images=report)\n"
    )
    script = tmp_path / "slow.py"
    script.write_text(code)
    command = [sys.executable, str(script), str(image_folder), str(tmp_path / "a.beton")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"ready\n"
    process.kill()
    process.wait()
    process.stdout.read()  # returns when the last worker, which shares the pipe, has gone


def test_terminated_conversion_cleans_up(image_folder, tmp_path):
    code = (
        "import sys, time; from fastvarcon import cli; from fastvarcon.data_prep.beton_writer import BetonWriter\n"
        "def slow(self, *args, **kwargs): print('ready', flush=True); time.sleep(60)\n"
        "BetonWriter.add = slow; cli.main()"
    )
    command = [sys.executable, "-c", code, "convert", str(image_folder), str(tmp_path / "a.beton"), "--workers", "1"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"ready\n"
    process.terminate()
    assert process.wait(30) == 143 and [p.name for p in tmp_path.iterdir()] == ["images"]
