import numpy as np
import pytest
import torch
from PIL import Image

from fastvarcon.data.backends import open_backend
from fastvarcon.data.beton import JPG
from fastvarcon.data.decode import ImageError
from fastvarcon.data.records import content_hash
from fastvarcon.data_prep.beton_writer import BetonWriter
from fastvarcon.data_prep.convert import convert
from fastvarcon.data_prep.encode import EncodeSettings
from fastvarcon.data_prep.record import Record
from fastvarcon.data_prep.sources import open_source
from fastvarcon.errors import UserError


@pytest.mark.parametrize("workers", [1, 3])
def test_cpu_delivers_what_folder_delivers(image_folder, tmp_path, workers):
    source = open_source(image_folder)
    convert(source, tmp_path / "raw.beton", EncodeSettings("raw"), workers=1, on_error="stop")
    cpu, folder = open_backend("cpu", tmp_path / "raw.beton", workers), open_backend("folder", image_folder, workers)
    ids = np.array([14, 0, 7, 7, 3])
    one, other = cpu.fetch(ids), folder.fetch(ids)
    assert len(cpu) == len(folder) == 15 and cpu.classes == folder.classes == ["ant", "bee", "cat"]
    for name, column in vars(one).items():
        assert torch.equal(column, getattr(other, name)), name
    for slot, index in enumerate(ids):
        pixels = np.asarray(Image.open(source.read(index)).convert("RGB"))
        assert (one.image(slot).numpy() == pixels).all()
    cpu.close(), folder.close(), cpu.close()


def test_kept_jpegs_decode_to_the_same_pixels(image_folder, tmp_path):
    convert(open_source(image_folder), tmp_path / "keep.beton", EncodeSettings("keep"), workers=1, on_error="stop")
    cpu, folder = open_backend("cpu", tmp_path / "keep.beton", 2), open_backend("folder", image_folder, 2)
    jpegs = np.array([0, 2, 4, 6])
    assert torch.equal(cpu.fetch(jpegs).pixels, folder.fetch(jpegs).pixels)


def test_broken_record_is_named(tmp_path):
    path = tmp_path / "a.beton"
    broken = b"\xff\xd8\xff\xe0 no image"
    with BetonWriter(path, 2, ["x"]) as writer:
        for _ in range(2):
            writer.add(Record(broken, JPG, 4, 4), 0, content_hash(broken))
    with pytest.raises(ImageError, match=r"a\.beton record 1: broken image"):
        open_backend("cpu", path, 2).fetch(np.array([1]))


def test_a_record_that_lost_data_is_named(image_folder, tmp_path):
    """It was kept undecoded, and PIL would show it."""
    payload = (image_folder / "ant" / "0.jpg").read_bytes()
    (image_folder / "ant" / "0.jpg").write_bytes(payload[: len(payload) // 2] + b"\xff\xd9")
    convert(open_source(image_folder), tmp_path / "a.beton", EncodeSettings("keep"), workers=1, on_error="stop")
    for backend in (open_backend("cpu", tmp_path / "a.beton"), open_backend("folder", image_folder)):
        with pytest.raises(ImageError, match=r"(record 0|0\.jpg): broken image .Corrupt JPEG data") as error:
            backend.fetch(np.array([3, 0]))
        assert error.value.sample == 0
        backend.close()


def test_the_folder_backend_says_once_that_transparent_pixels_are_white(image_folder, capsys):
    for name in ("0.png", "2.png"):
        Image.new("RGBA", (9, 9)).save(image_folder / "ant" / name)
    backend = open_backend("folder", image_folder)
    assert (backend.fetch(np.array([1])).pixels == 255).all()
    backend.fetch(np.arange(len(backend)))
    assert capsys.readouterr().err.count("has transparent pixels: here and in other images they are white") == 1
    backend.close()


def test_record_of_another_size_than_its_entry(image_folder, tmp_path):
    path = tmp_path / "a.beton"
    payload = (image_folder / "ant" / "0.jpg").read_bytes()
    with BetonWriter(path, 1, ["x"]) as writer:
        writer.add(Record(payload, JPG, 5, 5), 0, content_hash(payload))
    with pytest.raises(ImageError, match="its entry says"):
        open_backend("cpu", path, 1).fetch(np.array([0]))


def test_unknown_backend_lists_the_known_ones(tmp_path):
    with pytest.raises(UserError, match="choose from cpu, resident, nvjpeg, dali, ffcv, folder"):
        open_backend("lmdb", tmp_path, 1)


def test_fingerprint_follows_the_file(image_folder, tmp_path):
    source, out = open_source(image_folder), tmp_path / "a.beton"
    prints = []
    for mode in ("raw", "jpg"):
        convert(source, out, EncodeSettings(mode), workers=1, on_error="stop")
        prints.append(open_backend("cpu", out, 1).fingerprint)
    assert prints[0] != prints[1]
