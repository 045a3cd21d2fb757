"""A broken image does not end a run that asked for that, and which image replaces it depends on the file alone."""

import numpy as np
import pytest
import torch

from fastvarcon.data.backends import open_backend
from fastvarcon.data.decode import ImageError


@pytest.fixture
def folder(image_folder):
    """Classes ant 0-3, bee 4-8, cat 9-14; samples 6, 7 and 14 are broken."""
    for broken in ("bee/2.jpg", "bee/3.png", "cat/5.png"):
        (image_folder / broken).write_bytes(b"no image")
    return image_folder


def test_next_of_the_class_takes_the_place(folder, capsys):
    backend = open_backend("folder", folder, 1, on_bad_image="replace")
    batch = backend.fetch(np.array([6, 0, 14, 7]))
    assert batch.ids.tolist() == [8, 0, 9, 8]
    assert batch.labels.tolist() == [1, 0, 2, 1]
    assert torch.equal(batch.image(0), backend.fetch(np.array([8])).image(0))
    assert sorted(backend.replaced) == [6, 7, 14] and "bee/2.jpg" in backend.replaced[6]
    assert capsys.readouterr().err.count("takes its place") == 3


def test_it_does_not_matter_in_which_order_they_are_met(folder):
    one, other = (open_backend("folder", folder, 2, on_bad_image="replace") for _ in range(2))
    ids = np.arange(15)
    whole = one.fetch(ids)
    parts = [other.fetch(ids[i : i + 1]).ids.item() for i in reversed(range(15))][::-1]
    assert whole.ids.tolist() == parts


def test_stop_is_the_default_and_names_the_sample(folder):
    with pytest.raises(ImageError, match=r"bee/2\.jpg") as caught:
        open_backend("folder", folder, 1).fetch(np.array([0, 6]))
    assert caught.value.sample == 6


def test_a_class_without_a_whole_image_borrows_from_the_next(folder):
    for image in (folder / "bee").iterdir():
        image.write_bytes(b"no image")
    batch = open_backend("folder", folder, 1, on_bad_image="replace").fetch(np.array([5]))
    assert batch.ids.tolist() == [9] and batch.labels.tolist() == [2]


def test_nothing_left(folder):
    for image in folder.glob("*/*"):
        image.write_bytes(b"no image")
    with pytest.raises(ImageError, match="every image"):
        open_backend("folder", folder, 1, on_bad_image="replace").fetch(np.array([5]))
