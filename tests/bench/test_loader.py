"""`fastvarcon bench loader` from end to end on a few small images."""

import csv

import pytest
from PIL import Image

from fastvarcon.bench.loader import write_folder
from fastvarcon.data.records import open_records
from fastvarcon.data_prep.convert import convert
from fastvarcon.data_prep.encode import EncodeSettings
from fastvarcon.data_prep.sources import open_source


@pytest.fixture
def file(image_folder, tmp_path):
    out = tmp_path / "a.beton"
    convert(open_source(image_folder), out, EncodeSettings("keep"), workers=1, on_error="stop")
    return out


def test_rows_chart_and_ratios(run_python, file, tmp_path):
    flags = ("--size", "16", "--batch", "4", "--rounds", "2", "--seconds", "0.2", "--only", "decode: fastvarcon cpu")
    out = ("--csv", tmp_path / "loader.csv", "--plot", tmp_path / "loader.png")
    done = run_python("-m", "fastvarcon.cli", "bench", "loader", file, *flags, *out)
    assert done.returncode == 0, done.stderr
    rows = list(csv.DictReader((tmp_path / "loader.csv").read_text().splitlines()))
    assert [(row["task"], row["competitor"]) for row in rows] == [
        ("two views", "torchvision two-crop DataLoader"),
        ("decode", "fastvarcon cpu"),
    ]
    assert rows[0]["ratio_to_torchvision"] == "1.0" and float(rows[1]["ratio_to_torchvision"]) > 1
    assert rows[0]["images"] == "15" and "torch=" in rows[0]["versions"] and "bench loader" in rows[0]["command"]
    assert Image.open(tmp_path / "loader.png").width > 500
    assert "x torchvision" in done.stdout.replace("\n", " ") or "torchvision" in done.stdout


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--batch", "99"), "less than a batch"),
        (("--rounds", "0"), "--rounds must be at least 1"),
        (("--csv", "/nowhere/x.csv"), "make it first"),
    ],
)
def test_what_cannot_be_measured(fastvarcon, file, flags, message):
    assert message in fastvarcon("bench", "loader", file, *flags, code=2)


def test_folder_for_the_others_holds_the_same_bytes(image_folder, file, tmp_path):
    (tmp_path / "out").mkdir()
    records = open_records(file)
    write_folder(records, file, tmp_path / "out")
    written = sorted((tmp_path / "out").glob("*/*"))
    assert len(written) == 15 and {path.suffix for path in written} == {".jpg"}
    assert written[0].read_bytes() == (image_folder / "ant" / "0.jpg").read_bytes()
