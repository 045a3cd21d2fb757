"""Our .beton files in the real ffcv package, and its files in our reader."""

import numpy as np
import pytest
from PIL import Image

from fastvarcon.data.backends import open_backend
from fastvarcon.data.beton import JPG, RAW, Beton
from fastvarcon.data_prep.convert import convert
from fastvarcon.data_prep.encode import EncodeSettings
from fastvarcon.data_prep.sources import open_source

pytest.importorskip(
    "ffcv", reason="the ffcv package is not installed: it needs libturbojpeg0-dev, libopencv-dev, pkg-config"
)

from ffcv.fields import FloatField, IntField, RGBImageField
from ffcv.reader import Reader
from ffcv.writer import DatasetWriter


class Pictures:
    """Nine pictures of one size with labels and a score, indexable as ffcv wants it."""

    def __init__(self, rng):
        self.pixels = [
            np.asarray(Image.fromarray(rng.integers(0, 256, (4, 5, 3), dtype=np.uint8)).resize((40, 32), 2))
            for _ in range(9)
        ]

    def __len__(self):
        return len(self.pixels)

    def __getitem__(self, index):
        return self.pixels[index], index % 3, index / 2


@pytest.mark.parametrize("mode", ["raw", "jpg", "keep"])
def test_ffcv_reads_our_file(image_folder, tmp_path, mode):
    path = tmp_path / "ours.beton"
    convert(open_source(image_folder), path, EncodeSettings(mode), workers=1, on_error="stop")
    ours, theirs = Beton(path), Reader(str(path))
    assert theirs.num_samples == len(ours) and theirs.field_names == ["image", "label"]
    assert (theirs.metadata["f1"] == ours.labels).all()
    assert (theirs.metadata["f0"]["width"] == ours.widths).all() and (theirs.metadata["f0"]["mode"] == ours.modes).all()
    assert (theirs.alloc_table["size"] == ours.sizes).all() and (theirs.alloc_table["ptr"] == ours._pointers).all()


@pytest.mark.parametrize("os_cache", [True, False])
@pytest.mark.parametrize("mode", ["raw", "jpg"])
def test_ffcvs_loader_delivers_our_pixels(tmp_path, rng, mode, os_cache, read_with_ffcv):
    """Through ffcv's own decoding, with its memory map and with its page reader."""
    source = Pictures(rng)
    for index in range(9):
        folder = tmp_path / "images" / f"class{index % 3}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(source.pixels[index]).save(folder / f"{index}.png")
    path = tmp_path / "ours.beton"
    convert(open_source(tmp_path / "images"), path, EncodeSettings(mode, quality=95), workers=1, on_error="stop")
    images, labels = read_with_ffcv(path, os_cache, "SimpleRGBImageDecoder")
    batch = open_backend("cpu", path, 1).fetch(np.arange(9))
    ours = np.stack([batch.image(i).numpy() for i in range(9)])
    assert labels.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    if mode == "raw":
        assert (images == ours).all()
    else:  # ffcv decodes with the fast DCT and fast upsampling: close, not equal
        assert np.abs(images.astype(int) - ours).mean() < 2


@pytest.mark.parametrize("mode", ["raw", "jpg"])
def test_we_read_ffcvs_file(tmp_path, rng, mode):
    """With an extra float field, which ffcv allows and we pass over."""
    source, path = Pictures(rng), tmp_path / "theirs.beton"
    fields = {"score": FloatField(), "image": RGBImageField(write_mode=mode, jpeg_quality=95), "label": IntField()}
    writer = DatasetWriter(str(path), fields, num_workers=1)

    class Reordered:
        def __len__(self):
            return len(source)

        def __getitem__(self, index):
            image, label, score = source[index]
            return score, image, label

    writer.from_indexed_dataset(Reordered())
    file = Beton(path)
    assert len(file) == 9 and file.labels.tolist() == [0, 1, 2] * 3 and file.classes == ["0", "1", "2"]
    assert (file.modes == (RAW if mode == "raw" else JPG)).all()
    batch = open_backend("cpu", path, 2).fetch(np.arange(9))
    difference = np.abs(np.stack([batch.image(i).numpy() for i in range(9)]).astype(int) - np.stack(source.pixels))
    assert difference.max() == 0 if mode == "raw" else difference.mean() < 3


def test_ffcv_centre_crop_on_ragged_images(image_folder, tmp_path, read_with_ffcv):
    """Images of different sizes: ffcv finds every record by our tables."""
    path = tmp_path / "ours.beton"
    convert(open_source(image_folder), path, EncodeSettings("raw"), workers=1, on_error="stop")
    images, _ = read_with_ffcv(path, True, "CenterCropRGBImageDecoder", [16, 16], 1.0)
    batch = open_backend("cpu", path, 1).fetch(np.arange(15))
    means = np.array([batch.image(i).double().mean((0, 1)).numpy() for i in range(15)])
    assert images.shape == (15, 16, 16, 3) and np.abs(images.mean((1, 2)) - means).mean() < 12
