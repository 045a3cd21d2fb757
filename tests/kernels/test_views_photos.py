"""Views of photographs by all three implementations against torchvision v2: every operation alone, and policies.

The contract is 2e-3 at most and 1e-4 on average, in [0, 1] units. Posterize, Solarize and Equalize cut at a value, so a
pixel within rounding of it may fall on either side: there torchvision's own results for pixels 1e-6 apart bound it.
"""

import dataclasses

import numpy as np
import pytest
import torch

from fastvarcon.data.augment import POLICIES, ViewTable, view_params
from fastvarcon.data.batch import ImageBatch
from fastvarcon.kernels import reference, views_cpu, views_triton
from fastvarcon.kernels.operations import EQUALIZE, OPERATIONS, POSTERIZE, SOLARIZE, affine_matrices

OFF = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}
IMPLEMENTATIONS = {"torch": reference.views, "numba": views_cpu.views, "triton": views_triton.views}
STEPS = [
    ("Brightness", 1.27),
    ("Contrast", 0.37),
    ("Contrast", 1.8),
    ("Color", 1.54),
    ("Sharpness", 1.9),
    ("Sharpness", 0.1),
    ("Posterize", 16.0),
    ("Solarize", 0.7),
    ("AutoContrast", 0.0),
    ("Equalize", 0.0),
    ("Invert", 0.0),
    ("ShearX", 0.3),
    ("ShearY", -0.21),
    ("TranslateX", 0.271),
    ("TranslateY", -0.453),
    ("Rotate", 30.0),
    ("Rotate", -9.0),
]


@pytest.fixture(params=["torch", "numba"])
def views(request):
    return IMPLEMENTATIONS[request.param]


def some(batch: ImageBatch, images: list[int]) -> ImageBatch:
    columns = {name: getattr(batch, name)[images] for name in vars(batch) if name != "pixels"}
    return dataclasses.replace(batch, **columns)


def draw(policy, batch: ImageBatch, num_views: int = 1, epoch: int = 0) -> ViewTable:
    sizes = {"heights": batch.height.numpy(), "widths": batch.width.numpy()}
    ids = np.arange(len(batch))
    return ViewTable.cat([view_params(policy, 0, epoch, ids, view, **sizes) for view in range(num_views)])


def whole(batch: ImageBatch, *steps: tuple[str, float]) -> ViewTable:
    """Whole images with these operations, of which there are one or two."""
    zero = torch.zeros(len(batch))
    ops, magnitudes = torch.zeros((len(batch), 2), dtype=torch.uint8), torch.zeros((len(batch), 2))
    for step, (name, magnitude) in enumerate(steps):
        ops[:, step], magnitudes[:, step] = OPERATIONS.index(name), magnitude
    box = torch.stack([zero, zero, batch.height.float(), batch.width.float()], 1)
    return dataclasses.replace(draw("crop", batch), box=box, ops=ops, magnitudes=magnitudes)


def cuts(table: ViewTable) -> torch.Tensor:
    return torch.isin(table.ops, torch.tensor([POSTERIZE, SOLARIZE, EQUALIZE], dtype=torch.uint8)).any(1)


@pytest.fixture
def assert_like_torchvision(torchvision_view):
    def check(ours: torch.Tensor, batch: ImageBatch, table: ViewTable, size: int, interpolation="bilinear") -> None:
        def theirs(row: int, nudge: float = 0.0) -> torch.Tensor:
            return torchvision_view(batch.image(row % len(batch)), table, row, size, interpolation, nudge)

        for row, cut in enumerate(cuts(table).tolist()):
            exact = theirs(row)
            nudged = torch.stack([theirs(row, nudge) for nudge in (-1e-6, 0.0, 1e-6)]) if cut else exact[None]
            low, high = nudged.amin(0), nudged.amax(0)
            # Equalize counts pixels: one on the other side may move a whole level by one of 255
            slack = 2e-3 + (table.ops[row] == EQUALIZE).sum() / 255 * cut
            assert ((ours[row] >= low - slack) & (ours[row] <= high + slack)).all(), f"row {row} {table.ops[row]}"
            assert (ours[row] - exact).abs().mean() <= 1e-4

    return check


@pytest.mark.parametrize("step", STEPS, ids=str)
def test_each_operation_alone(views, photos, assert_like_torchvision, step):
    batch = some(photos, [0, 3, 9])
    table = whole(batch, step)
    assert_like_torchvision(views(batch, table, size=57, **OFF), batch, table, 57)


@pytest.mark.parametrize("step", STEPS, ids=str)
def test_each_operation_without_resampling_is_exact(views, photos, torchvision_view, step):
    """Where nothing is resampled, cutting operations cut the same pixels; two in a row, the second after any first."""
    batch = some(photos, [0, 6])
    assert (batch.height == 64).all() and (batch.width == 64).all()
    table = whole(batch, step, ("Color", 0.5))
    ours = views(batch, table, size=64, **OFF)
    for row in range(2):
        assert (ours[row] - torchvision_view(batch.image(row), table, row, 64)).abs().max() <= 2e-5


@pytest.mark.parametrize("policy", POLICIES)
def test_policies(views, photos, assert_like_torchvision, policy):
    table = draw(policy, photos, num_views=2)
    assert_like_torchvision(views(photos, table, size=64, **OFF), photos, table, 64)


@pytest.mark.parametrize("policy", ["crop-flip", "simaugment", "simclr"])
def test_bicubic_policies(views, photos, assert_like_torchvision, policy):
    table = draw(policy, photos, num_views=2)
    made = views(photos, table, size=64, **OFF, interpolation="bicubic")
    assert_like_torchvision(made, photos, table, 64, "bicubic")
    if policy == "crop-flip":
        assert made.min() < 0 and made.max() > 1, "as torchvision on float tensors, overshoot is not clamped"


@pytest.mark.parametrize("step", [step for step in STEPS if step[0] != "Equalize"], ids=str)
def test_operations_on_overshoot_equal_torchvision(views, photos, assert_like_torchvision, step):
    """Of pixels outside [0, 1] torchvision's Equalize is undefined."""
    batch = some(photos, [1, 8])
    table = whole(batch, step)
    made = views(batch, table, size=48, **OFF, interpolation="bicubic")
    assert_like_torchvision(made, batch, table, 48, "bicubic")


def test_triton_operations(photos, torchvision_view):
    """All of them in pairs, not resampled, for the interpreter is slow."""
    piece = photos.image(0)[:24, :24].numpy()
    rows = [STEPS[k : k + 2] for k in range(0, len(STEPS) - 1, 2)] + [[STEPS[-1], STEPS[0]]]
    batch = ImageBatch.from_images([piece] * len(rows), np.zeros(len(rows), np.int64), np.arange(len(rows)))
    table = whole(batch)
    for row, pair in enumerate(rows):
        for step, (name, magnitude) in enumerate(pair):
            table.ops[row, step], table.magnitudes[row, step] = OPERATIONS.index(name), magnitude
    made = {name: function(batch, table, size=24, **OFF) for name, function in IMPLEMENTATIONS.items()}
    for name in ("numba", "triton"):
        assert (made[name] - made["torch"]).abs().max() <= 1e-5, name
    for row in range(len(rows)):
        theirs = torchvision_view(batch.image(row), table, row, 24)
        assert (made["triton"][row] - theirs).abs().max() <= 2e-5, rows[row]


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_triton_stacked_policy(photos, assert_like_torchvision, interpolation):
    pieces = [photos.image(k)[20:50, 10:38].numpy() for k in range(3)]
    batch = ImageBatch.from_images(pieces, np.zeros(3, np.int64), np.arange(3))
    table = draw("stacked-randaugment" if interpolation == "bilinear" else "simclr", batch)
    made = views_triton.views(batch, table, size=20, **OFF, interpolation=interpolation)
    assert_like_torchvision(made, batch, table, 20, interpolation)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("policy", ["simaugment", "simclr"])
def test_implementations_agree(photos, policy, interpolation):
    table = draw(policy, photos, num_views=2)
    options = {**OFF, "size": 96, "interpolation": interpolation}
    exact = reference.views(photos, table, **options, dtype=torch.float64)
    ours = views_cpu.views(photos, table, **options)
    assert (ours - exact).abs().max() <= 1e-5
    assert (ours - reference.views(photos, table, **options)).abs().max() <= 1e-5
    assert torch.equal(views_cpu.views(photos, table, **options, dtype=torch.bfloat16), ours.bfloat16())


@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize("name", ["Sharpness", "Equalize", "AutoContrast", "Rotate"])
def test_operations_on_the_smallest_views(photos, name, size):
    piece = photos.image(3)[:7, :5].numpy()
    batch = ImageBatch.from_images([piece], np.zeros(1, np.int64), np.arange(1))
    table = whole(batch, (name, 1.5), ("Invert", 0.0))
    made = [function(batch, table, size=size, **OFF) for function in IMPLEMENTATIONS.values()]
    for other in made[1:]:
        assert other.isfinite().all() and (other - made[0]).abs().max() <= 1e-5


@pytest.mark.parametrize("value", [0, 7, 255])
def test_images_of_one_colour_stay_finite(views, value):
    flat = np.full((9, 9, 3), value, dtype=np.uint8)
    batch = ImageBatch.from_images([flat], np.zeros(1, np.int64), np.arange(1))
    for name in ("Equalize", "AutoContrast"):
        made = views(batch, whole(batch, (name, 0.0)), size=9, **OFF)
        assert torch.equal((made * 255).round(), torch.full_like(made, value)), name


def test_matrices_of_what_moves_nothing_are_the_identity():
    ops = torch.arange(len(OPERATIONS), dtype=torch.uint8)
    eye = torch.eye(2, 3).expand(len(ops), 2, 3)
    assert torch.equal(affine_matrices(ops, torch.zeros(len(ops)), 32), eye)
    assert torch.equal(affine_matrices(ops[:9], torch.ones(9), 32), eye[:9])
