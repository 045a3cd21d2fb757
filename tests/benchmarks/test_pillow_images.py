"""The comparison with Pillow counts what it should, and finds what is stored otherwise."""

import csv
import sys
from pathlib import Path

import numpy as np
import pytest
from image_files import png16, saved, tiff
from PIL import Image

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def module(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import pillow_images

    return pillow_images


@pytest.fixture
def folder(tmp_path, rng):
    colours = Image.fromarray(rng.integers(0, 256, (16, 16, 4), dtype=np.uint8), "RGBA")
    twelve, sixteen = (rng.integers(0, 2**bits, (16, 16)) for bits in (12, 16))
    jpeg = saved(colours.convert("RGB").resize((80, 80)), "JPEG", quality=92)
    files = {
        "alpha.png": saved(colours, "PNG"),
        "grey.png": png16(sixteen[..., None]),
        "negative.tif": tiff(sixteen, 16, photometric=0),
        "scan.tif": tiff(twelve, 12),
        "plain.jpg": jpeg,
        "half.jpg": jpeg[: len(jpeg) // 2] + b"\xff\xd9",
        "float.tif": saved(Image.new("F", (4, 4)), "TIFF"),
        "notes.txt": b"no image",
    }
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    return tmp_path


@pytest.mark.parametrize("mode", ["jpg", "raw", "keep"])
def test_everything_is_stored_as_pillow_shows_it(module, folder, mode):
    counts, wrong = module.compare(folder, mode)
    assert counts == {"same": 5, "refused": 2, "refused by both": 1} and not wrong


@pytest.mark.parametrize("mode", ["jpg", "raw"])
def test_other_pixels_and_refusals_are_found(module, folder, mode, monkeypatch):
    def black_background(path, name, settings):
        if name == "plain.jpg":
            raise module.ImageError("plain.jpg: no reason")
        return encode(path, name, module.EncodeSettings(mode, background="black"))

    encode = module.encode
    monkeypatch.setattr(module, "encode", black_background)
    counts, wrong = module.compare(folder, mode)
    assert counts["otherwise"] == 1 and len(wrong) == 2
    assert wrong[0].startswith(f"{mode}: alpha.png: ") and wrong[1] == f"{mode}: refused: plain.jpg: no reason"


def test_a_run_writes_a_row_per_mode(module, folder, tmp_path, monkeypatch):
    out = tmp_path / "rows.csv"
    monkeypatch.setattr(sys, "argv", ["pillow_images.py", str(folder), "--out", str(out)])
    with pytest.raises(SystemExit) as stop:
        module.main()
    assert stop.value.code == 0
    rows = list(csv.DictReader(out.open()))
    assert [row["mode"] for row in rows] == ["jpg", "raw", "keep"] and {row["same"] for row in rows} == {"5"}
