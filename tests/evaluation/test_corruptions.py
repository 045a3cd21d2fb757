"""Corrupted images: what each corruption does to an image, and the published files that are read."""

import io
import unicodedata

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.ndimage import gaussian_filter

from fastvarcon.config import DataConfig
from fastvarcon.data.class_names import class_numbers
from fastvarcon.errors import UserError
from fastvarcon.evaluation.corrupted_sets import CifarC, evaluation_crop, stored_images, stored_sets
from fastvarcon.evaluation.corruption import _doubts
from fastvarcon.evaluation.corruptions import CORRUPTIONS, corrupt
from fastvarcon.evaluation.image_filters import convolved, plasma, zoomed
from fastvarcon.evaluation.label_names import CIFAR10, CIFAR100, label_names


@pytest.fixture(scope="module")
def view():
    """A picture with flat parts, edges and colours, 32 px; its double has 96."""
    rng = np.random.default_rng(0)
    coarse = Image.fromarray(rng.integers(30, 220, (6, 6, 3), dtype=np.uint8))
    return {side: np.asarray(coarse.resize((side, side), Image.Resampling.BICUBIC)) for side in (32, 96)}


@pytest.mark.parametrize("side", [32, 96])
@pytest.mark.parametrize("name", CORRUPTIONS)
def test_every_corruption_changes_the_image_repeatably_and_more_at_severity_5(view, name, side):
    made = {severity: corrupt(view[side], name, severity, 7, 3) for severity in (1, 5)}
    assert all(one.shape == (side, side, 3) and one.dtype == np.uint8 for one in made.values())
    assert (corrupt(view[side], name, 5, 7, 3) == made[5]).all()
    change = {severity: np.abs(one.astype(float) - view[side]).mean() for severity, one in made.items()}
    assert change[1] > 0 and change[5] > change[1] * (0.3 if name == "elastic_transform" else 1), change
    random = name not in ("brightness", "contrast", "defocus_blur", "zoom_blur", "pixelate", "jpeg_compression")
    assert (corrupt(view[side], name, 5, 7, 4) == made[5]).all() != random, "another image: another draw"


def test_strengths_mean_what_the_paper_says(view):
    flat = np.full((32, 32, 3), 128, np.uint8)
    assert corrupt(flat, "gaussian_noise", 5, 0, 0).std() / 255 == pytest.approx(0.10, rel=0.05)
    assert corrupt(flat, "shot_noise", 5, 0, 0).std() / 255 == pytest.approx((128 / 255 / 50) ** 0.5, rel=0.05)
    hit = corrupt(flat, "impulse_noise", 5, 0, 0)
    assert (hit != 128).mean() == pytest.approx(0.07, abs=0.01) and set(np.unique(hit)) == {0, 128, 255}
    contrast = corrupt(view[32], "contrast", 5, 0, 0)
    assert contrast.std() / view[32].std() == pytest.approx(0.15, rel=0.2)
    stream = io.BytesIO()
    Image.fromarray(view[32]).save(stream, "JPEG", quality=40)
    assert (np.asarray(Image.open(stream)) == corrupt(view[32], "jpeg_compression", 5, 0, 0)).all()
    brighter = np.asarray(Image.fromarray(corrupt(view[32], "brightness", 3, 0, 0)).convert("HSV")).astype(int)
    before = np.asarray(Image.fromarray(view[32]).convert("HSV")).astype(int)
    room = before[..., 2] < 200
    assert np.abs(brighter - before)[room][:, 2].mean() == pytest.approx(0.15 * 255, abs=2)


def test_tools_against_scipy(view):
    x = view[32] / 255.0
    delta = np.zeros((9, 9))
    delta[4, 4] = 1
    kernel = gaussian_filter(delta, 1.0)
    expected = gaussian_filter(x, (1, 1, 0), mode="reflect", truncate=4)
    np.testing.assert_allclose(convolved(x, kernel), expected, atol=1e-3)
    np.testing.assert_allclose(zoomed(x, 1.0), x)
    cloud = plasma(40, 2.0, np.random.default_rng(0))
    assert cloud.shape == (40, 40) and cloud.min() == 0 and cloud.max() == 1


def test_crop_is_pils(view):
    tall = np.asarray(Image.fromarray(view[96]).resize((40, 80)))
    cropped = evaluation_crop(tall, 20, 16)
    assert (cropped == np.asarray(Image.fromarray(tall).resize((20, 40), Image.Resampling.BILINEAR))[12:28, 2:18]).all()
    assert evaluation_crop(view[32], 32, 32) is not None and (evaluation_crop(view[32], 32, 32) == view[32]).all()


@pytest.fixture
def cifar_c(tmp_path):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (20, 8, 8, 3), dtype=np.uint8)
    np.save(tmp_path / "fog.npy", images)
    np.save(tmp_path / "labels.npy", np.tile(np.array([0, 1, 2, 1], np.uint8), 5))
    return tmp_path, images


def test_array_of_a_severity(cifar_c):
    folder, images = cifar_c
    [(name, place)] = stored_sets(folder, ()).items()
    source = stored_images(folder, place, name, 3)
    backend = CifarC(source.path, source.corruption, source.severity)
    batch = backend.fetch(np.array([1, 3]))
    assert len(backend) == 4 and batch.labels.tolist() == [1, 1] and backend.labels.tolist() == [0, 1, 2, 1]
    assert (batch.image(1).numpy() == images[11]).all()


def test_arrays_that_are_none(cifar_c):
    folder, images = cifar_c
    np.save(folder / "snow.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(UserError, match=r"snow\.npy cannot be read as an array"):
        CifarC(folder, "snow", 1)
    np.save(folder / "snow.npy", images[:7])
    with pytest.raises(UserError, match=r"uint8 of \[5 n"):
        CifarC(folder, "snow", 1)
    np.save(folder / "labels.npy", np.zeros(3, np.uint8))
    with pytest.raises(UserError, match=r"labels\.npy does not go with 4 images"):
        CifarC(folder, "fog", 1)


def test_folders_of_imagenet_c(tmp_path):
    for place in ("fog/1", "noise/gaussian_noise/1"):
        (tmp_path / place).mkdir(parents=True)
    found = stored_sets(tmp_path, ())
    assert list(found) == ["gaussian_noise", "fog"] and found["gaussian_noise"] == tmp_path / "noise/gaussian_noise"
    assert stored_images(tmp_path, found["fog"], "fog", 1).path == tmp_path / "fog" / "1"
    with pytest.raises(UserError, match="has no snow: it holds fog, gaussian_noise"):
        stored_sets(tmp_path, ("snow",))
    with pytest.raises(UserError, match="is not a folder"):
        stored_sets(tmp_path / "none", ())
    with pytest.raises(UserError, match="holds no corruptions"):
        stored_sets(tmp_path / "fog", ())


def test_label_numbers_mean_the_classes_that_the_set_defines(tmp_path):
    """As batches.meta of CIFAR-10 has them, whatever order a folder's names have."""
    ours = sorted(["plane", "car", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"])
    assert label_names(tmp_path, ours) == [
        "plane",
        "car",
        "bird",
        "cat",
        "deer",
        "dog",
        "frog",
        "horse",
        "ship",
        "truck",
    ]
    assert label_names(tmp_path, ["10", "2", *map(str, (0, 1, 3, 4, 5, 6, 7, 8, 9))]) == [str(n) for n in range(11)]
    hundred = sorted(name.replace("_", " ").title() for name in CIFAR100)  # "Pine Tree" is behind "Pickup Truck" there
    assert [name.replace(" ", "_").lower() for name in label_names(tmp_path, hundred)] == list(CIFAR100)
    with pytest.raises(UserError, match=r"training classes \('a', 'b'\) .* into .*classes\.txt, in the order"):
        label_names(tmp_path, ["a", "b"])
    (tmp_path / "classes.txt").write_text("b\na\n")
    assert label_names(tmp_path, ["a", "b"]) == ["b", "a"]


def test_the_names_of_cifar_are_those_that_its_authors_publish():
    """Both lists are in the order of the alphabet."""
    assert len(CIFAR100) == len(set(CIFAR100)) == 100 and list(CIFAR100) == sorted(CIFAR100)
    assert list(CIFAR10) == sorted(CIFAR10) and len(CIFAR10) == 10


def test_labels_of_a_set_in_the_order_of_ours(cifar_c):
    folder, _ = cifar_c
    (folder / "classes.txt").write_text("cat\nant\nbee\n")
    images = stored_images(folder, None, "fog", 1, ("ant", "bee", "cat"))
    backend = images.open(1, torch.device("cpu"), DataConfig())
    assert backend.classes == ["ant", "bee", "cat"] and backend.labels.tolist() == [2, 0, 1, 0]  # were 0, 1, 2, 1
    assert backend.fetch(np.array([1, 2])).labels.tolist() == [0, 1]
    other = stored_images(folder, None, "fog", 1, ("ant", "bee", "dog"))
    with pytest.raises(UserError, match=r"1 of the 3 held-out ones are not among the 3 of training \(cat\): convert"):
        other.open(1, torch.device("cpu"), DataConfig())
    (folder / "classes.txt").unlink()
    with pytest.raises(UserError, match=r"other classes \(3\) than the training images \(2\)"):
        stored_images(folder, None, "fog", 1, ("0", "1")).open(1, torch.device("cpu"), DataConfig())


def test_classes_meet_by_name():
    nfc, nfd = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))
    assert class_numbers(["b", nfd], [nfc, "b"]).tolist() == [1, 0]
    assert class_numbers(["b"], ["a", "b"]).tolist() == [1]
    with pytest.raises(UserError, match=r"1 of the 2 held-out ones are not among the 2 of training \(c\)"):
        class_numbers(["b", "c"], ["a", "b"])


def test_a_set_whose_labels_are_doubted(tmp_path):
    errors = {"fog": {"1": 0.7, "5": 0.9}, "snow": {"1": 0.75}}
    [doubt] = _doubts(0.05, errors, None, tmp_path)
    assert "30.00% on its least corrupted images and 95.00% on the held-out images: check that its labels" in doubt
    assert not _doubts(0.5, errors, None, tmp_path) and not _doubts(0.05, {"fog": {"5": 0.9}}, None, tmp_path)
    assert not _doubts(0.05, errors, 0.06, tmp_path), "its clean images are as good as ours"
    [doubt] = _doubts(0.05, errors, 0.3, tmp_path)
    assert "70.00% on its images without corruption" in doubt
