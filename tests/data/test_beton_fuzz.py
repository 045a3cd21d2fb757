"""The readers on any bytes: a UserError or whole records. More of the same: benchmarks/fuzz_reader.py."""

import io
import os
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, JpegImagePlugin

from fastvarcon.data import beton
from fastvarcon.data.beton import Beton, BetonError, beyond_jpeg
from fastvarcon.data.decode import ImageError, decode_jpeg_into

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def fuzzing():
    """The modules of the script, importable in its processes too."""
    sys.path.insert(0, str(BENCHMARKS))
    import fuzz_mutants
    import fuzz_reader

    yield fuzz_reader, fuzz_mutants
    sys.path.remove(str(BENCHMARKS))


def test_every_seed_is_whole(fuzzing, tmp_path):
    fuzz_reader, fuzz_mutants = fuzzing
    for name, dataset in fuzz_mutants.make_seeds(with_ffcv=False).items():
        (tmp_path / name).mkdir()
        backend = fuzz_reader.CpuBackend(fuzz_reader.store(dataset, tmp_path / name), fuzz_reader.BackendOptions())
        backend.fetch(np.arange(len(backend)))


def test_thousands_of_mutants(fuzzing, tmp_path):
    fuzz_reader, fuzz_mutants = fuzzing
    mutants = fuzz_mutants.Mutants(fuzz_mutants.make_seeds(with_ffcv=False), seed=1)
    outcomes = fuzz_reader.fuzz(mutants, 6000, tmp_path / "kept")
    assert outcomes["crashes"] == outcomes["hangs"] == outcomes["unexpected"] == 0
    assert outcomes["opened"] > 1000 and outcomes["opened"] + outcomes["refused"] == 6000


DEADLY = """
import os
from fuzz_mutants import assemble, pictures

class Death(dict):
    def items(self):
        os.abort()

class Deadly:
    def __getitem__(self, index):
        return Death() if index in (2, 3) else {"a.beton": assemble(pictures(1, "j"), True)}
"""


def test_crashes_are_counted_and_the_rest_is_read(fuzzing, tmp_path, monkeypatch):
    fuzz_reader, _ = fuzzing
    (tmp_path / "deadly.py").write_text(DEADLY)
    monkeypatch.syspath_prepend(tmp_path)
    import deadly

    outcomes = fuzz_reader.fuzz(deadly.Deadly(), 6, tmp_path / "kept")
    assert outcomes == {"opened": 4, "refused": 0, "unexpected": 0, "crashes": 2, "hangs": 0}
    assert sorted(path.name for path in (tmp_path / "kept").iterdir()) == ["crash-2", "crash-3"]


# ---- what was found --------------------------------------------------------------------------------------------------


@pytest.fixture
def edited(fuzzing, tmp_path):
    """Write a .beton file of four JPEGs after `edit` has changed its tables in place; returns its path."""

    def write(edit) -> Path:
        content = bytearray(fuzzing[1].assemble(fuzzing[1].pictures(4, "j"), hashes=False))
        header = np.frombuffer(content, beton.HEADER, 1)
        samples = beton.sample_dtype([beton.IMAGE, np.dtype("<i8")])
        edit(header, np.frombuffer(content, samples, 4, 24 + 2 * beton.FIELD.itemsize))
        (tmp_path / "a.beton").write_bytes(content)
        return tmp_path / "a.beton"

    return write


def test_jpeg_that_claims_more_pixels_than_its_bytes_can_hold(edited):
    def claim(header, samples):
        samples["f0"]["width"][2] = samples["f0"]["height"][2] = 65_535  # 12.9 GB when decoded

    with pytest.raises(BetonError, match="record 2 is a JPEG with more pixels than its bytes can hold"):
        Beton(edited(claim))


@pytest.mark.parametrize(("mode", "progressive"), [("L", True), ("RGB", True), ("L", False), ("RGB", False)])
def test_no_real_jpeg_is_beyond_that_bound(mode, progressive):
    """One colour, the strongest subsampling, the tightest codes: as many pixels in a byte as an encoder gets."""
    side = np.array([6000])
    stream = io.BytesIO()
    image = Image.new(mode, (6000, 6000), "white")
    image.save(stream, "JPEG", quality=1, progressive=progressive, optimize=True, subsampling=2)
    size = np.array([len(stream.getvalue())])
    assert not beyond_jpeg(side, side, size).any() and beyond_jpeg(side, side, size // 8).all()


def test_allocation_table_that_would_be_the_whole_file(edited):
    """Its size follows from where it starts; of a large file it would take more memory than there is."""

    def widen(header, samples):
        header["allocations"] = 4096

    with pytest.raises(BetonError, match=r"an allocation table of \d+ entries"):
        Beton(edited(widen))


def test_pipe_is_no_hang(tmp_path):
    os.mkfifo(tmp_path / "a.beton")
    with pytest.raises(BetonError, match="is a pipe"):
        Beton(tmp_path / "a.beton")


def jpeg(height: int, width: int, kind: str = "JPEG") -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (width, height)).save(stream, kind)
    return stream.getvalue()


def test_image_of_another_size_is_not_decoded(monkeypatch):
    """A small entry around a large image: its header is enough to refuse it."""
    record = jpeg(3000, 2000)
    monkeypatch.setattr(JpegImagePlugin.JpegImageFile, "load", lambda self: pytest.fail("it was decoded"))
    with pytest.raises(ImageError, match="decodes to 3000 x 2000 pixels, its entry says 4 x 5"):
        decode_jpeg_into(record, np.empty((4, 5, 3), np.uint8), "a")


@pytest.mark.parametrize("kind", ["PNG", "BMP", "GIF"])
def test_jpeg_record_that_is_another_kind_of_image(kind):
    """Other formats say little about their size before they are decoded, and other decoders of JPEG refuse them."""
    with pytest.raises(ImageError, match="not an image that can be read"):
        decode_jpeg_into(jpeg(4, 5, kind), np.empty((4, 5, 3), np.uint8), "a")
