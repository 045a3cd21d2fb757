"""Bicubic views of evaluation against timm's own transform, whose images come from PIL."""

import numpy as np
import pytest
import torch
from PIL import Image

from fastvarcon.data.augment import eval_params
from fastvarcon.data.batch import ImageBatch
from fastvarcon.data.loader import ViewSpec
from fastvarcon.kernels import reference, views_cpu, views_triton

NORMALISE = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
IMPLEMENTATIONS = {"torch": reference.views, "numba": views_cpu.views, "triton": views_triton.views}
DEVICE = {"triton": "cuda" if torch.cuda.is_available() else "cpu"}
# PIL rounds to 8 bits after each axis: half a level, times the 1.25 that the weights of a cubic sum up to at most, and
# half a level again. Without clipping, edges are 30 levels off
LEVELS = (0.5 * 1.25 + 0.5 + 0.01) / 255


def squares(height: int, width: int) -> np.ndarray:
    """Black and white, where a cubic overshoots most: along edges, and at corners in both directions."""
    ink = np.add.outer(np.arange(height) // 5, np.arange(width) // 5) % 2
    return np.repeat(255 * ink.astype(np.uint8)[..., None], 3, axis=2)


@pytest.fixture(scope="module")
def images():
    """Larger and smaller than the view, wide and tall; noise and edges."""
    noise = np.random.default_rng(0).integers(0, 256, (50, 40, 3), dtype=np.uint8)
    return [squares(41, 41), squares(30, 20), noise, noise[:18, :30], squares(32, 70)]


@pytest.fixture(scope="module")
def by_timm(images):
    data = pytest.importorskip("timm.data", reason="timm is not installed")
    transform = data.create_transform(
        (3, 20, 20), is_training=False, interpolation="bicubic", crop_pct=20 / 26, **NORMALISE
    )
    return torch.stack([transform(Image.fromarray(image)) for image in images])


@pytest.fixture(scope="module")
def batch(images):
    count = len(images)
    return ImageBatch.from_images(images, np.zeros(count, np.int64), np.arange(count))


def levels_apart(ours: torch.Tensor, theirs: torch.Tensor) -> torch.Tensor:
    return ((ours.cpu() - theirs) * torch.tensor(NORMALISE["std"]).view(3, 1, 1)).abs().max()


@pytest.mark.parametrize("name", IMPLEMENTATIONS)
def test_evaluation_is_timms(name, batch, by_timm):
    table = eval_params(batch.height.numpy(), batch.width.numpy(), resize=26, size=20)
    options = {"size": 20, **NORMALISE, "interpolation": "bicubic"}
    there = batch.to(torch.device(DEVICE.get(name, "cpu")))
    assert levels_apart(IMPLEMENTATIONS[name](there, table, **options, clip=True), by_timm) <= LEVELS
    assert levels_apart(IMPLEMENTATIONS[name](there, table, **options), by_timm) > 20 / 255


def test_the_views_of_an_evaluation_are_clipped_and_those_of_training_are_not(batch, by_timm):
    spec = ViewSpec(size=20, **NORMALISE, policy="eval", num_views=1, resize=26, interpolation="bicubic")
    assert levels_apart(spec.views(batch, spec.table(batch, 0, 0)), by_timm) <= LEVELS
    crops = ViewSpec(size=20, mean=(0,) * 3, std=(1,) * 3, policy="crop-flip", num_views=1, interpolation="bicubic")
    views = crops.views(batch, crops.table(batch, 0, 0))
    assert views.min() < -0.02 and views.max() > 1.02, "as torchvision's float tensors are"
