"""Both host view kernels, plain torch and numba, against torchvision v2 on float tensors with antialias=True."""

import dataclasses

import numpy as np
import pytest
import torch
import torchvision.transforms.v2.functional as tv

from fastvarcon import kernels
from fastvarcon.data.augment import ViewTable, eval_params, view_params
from fastvarcon.data.batch import ImageBatch
from fastvarcon.kernels import reference, views_cpu

OFF = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}
COUNT = 24


@pytest.fixture(params=[reference.views, views_cpu.views], ids=["torch", "numba"])
def views(request):
    return request.param


@pytest.fixture
def batch(rng) -> ImageBatch:
    """Images of 24 sizes, each pixel random: harder than photographs, where neighbours agree."""
    sizes = rng.integers(9, 90, (COUNT, 2))
    images = [rng.integers(0, 256, (h, w, 3), dtype=np.uint8) for h, w in sizes]
    return ImageBatch.from_images(images, np.zeros(COUNT, np.int64), np.arange(COUNT))


@pytest.fixture
def assert_like_torchvision(views, batch, torchvision_view):
    def check(table: ViewTable, size: int) -> None:
        ours = views(batch, table, size=size, **OFF)
        theirs = [torchvision_view(batch.image(i % COUNT), table, i, size) for i in range(len(table))]
        assert (ours - torch.stack(theirs)).abs().max() <= 2e-5
        assert (ours - torch.stack(theirs)).abs().mean() <= 1e-6

    return check


@pytest.mark.parametrize("policy", ["simaugment", "simclr", "crop-flip", "crop"])
@pytest.mark.parametrize("size", [17, 48])
def test_policies_equal_torchvision(assert_like_torchvision, batch, policy, size):
    sizes = {"heights": batch.height.numpy(), "widths": batch.width.numpy()}
    table = ViewTable.cat([view_params(policy, 1, 2, batch.ids.numpy(), view, **sizes) for view in range(2)])
    assert_like_torchvision(table, size)


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("brightness", 1.7),
        ("brightness", 0.3),
        ("contrast", 1.7),
        ("contrast", 0.0),
        ("saturation", 1.9),
        ("saturation", 0.0),
        ("hue", 0.5),
        ("hue", -0.13),
        ("solarize", 0.5),
        ("blur_sigma", 1.3),
        ("gray", 1),
        ("flip", 1),
    ],
)
def test_each_operation_alone_equals_torchvision(assert_like_torchvision, batch, column, value, full_image_table):
    neutral = full_image_table(batch)
    changed = torch.full_like(getattr(neutral, column), value)
    assert_like_torchvision(full_image_table(batch, **{column: changed}), 32)


@pytest.mark.parametrize(("resize", "size"), [(40, 32), (16, 16), (100, 70)])
def test_evaluation_equals_resize_and_centre_crop(views, batch, resize, size):
    table = eval_params(batch.height.numpy(), batch.width.numpy(), resize=resize, size=size)
    ours = views(batch, table, size=size, **OFF)
    for index in range(COUNT):
        image = batch.image(index).permute(2, 0, 1).float() / 255
        theirs = tv.center_crop(tv.resize(image, [resize], antialias=True), [size, size])
        assert (ours[index] - theirs).abs().max() <= 1e-4


def test_rows_are_view_major_and_channels_last_and_normalised(views, batch, full_image_table):
    one = full_image_table(batch)
    both = ViewTable.cat([one, dataclasses.replace(one, flip=~one.flip)])
    out = views(batch, both, size=20, mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7))
    assert out.shape == (2 * COUNT, 3, 20, 20) and out.is_contiguous(memory_format=torch.channels_last)
    assert torch.allclose(out[COUNT:], out[:COUNT].flip(3), atol=1e-5)
    plain = views(batch, both, size=20, **OFF)
    assert torch.allclose(out, tv.normalize(plain, [0.1, 0.2, 0.3], [0.5, 0.6, 0.7]), atol=1e-5)


@pytest.mark.parametrize("policy", ["simaugment", "simclr", "crop"])
def test_float32_is_float64_to_rounding(views, batch, policy):
    sizes = {"heights": batch.height.numpy(), "widths": batch.width.numpy()}
    table = view_params(policy, 3, 4, batch.ids.numpy(), 0, **sizes)
    exact = reference.views(batch, table, size=33, **OFF, dtype=torch.float64)
    assert (views(batch, table, size=33, **OFF) - exact).abs().max() < 5e-6


def test_half_precision_is_the_rounded_float32(views, batch, full_image_table):
    table = full_image_table(batch)
    exact = reference.views(batch, table, size=20, **OFF, dtype=torch.float64)
    half = views(batch, table, size=20, **OFF, dtype=torch.bfloat16)
    assert half.dtype == torch.bfloat16 and (half.double() - exact).abs().max() < 2**-8


def test_result_does_not_depend_on_the_chunking(batch, monkeypatch, full_image_table):
    table = full_image_table(batch)
    whole = reference.views(batch, table, size=20, **OFF)
    monkeypatch.setattr(reference, "CANVAS_BYTES", 1)
    assert torch.allclose(reference.views(batch, table, size=20, **OFF), whole, atol=1e-6)


def test_result_does_not_depend_on_the_threads(batch, full_image_table):
    table = full_image_table(batch, blur_sigma=torch.ones(COUNT))
    threads = torch.get_num_threads()
    results = []
    for count in (1, 2):
        torch.set_num_threads(count)
        results.append(views_cpu.views(batch, table, size=20, **OFF))
    torch.set_num_threads(threads)
    assert torch.equal(*results)


def test_choice_of_implementation(batch, full_image_table):
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    assert kernels.views_backend(cpu, torch.float32) == kernels.views_backend(cpu, torch.bfloat16) == "numba"
    assert kernels.views_backend(gpu, torch.float32) == kernels.views_backend(gpu, torch.bfloat16) == "triton"
    assert kernels.views_backend(cpu, torch.float64) == kernels.views_backend(gpu, torch.float64) == "torch"
    assert kernels.views_backend(torch.device("mps"), torch.float32) == "torch"
    table = full_image_table(batch)
    assert torch.equal(kernels.views(batch, table, size=9, **OFF), views_cpu.views(batch, table, size=9, **OFF))


def test_padded_and_offset_rows_are_read_in_place(views, rng):
    """A batch whose rows have a stride, as in a padded canvas, shows the same images as a packed one."""
    canvas = rng.integers(0, 256, (2, 30, 40, 3), dtype=np.uint8)
    heights, widths = np.array([20, 30]), np.array([40, 25])
    packed = ImageBatch.from_images(
        [canvas[i, :h, :w] for i, (h, w) in enumerate(zip(heights, widths, strict=True))],
        np.zeros(2, np.int64),
        np.arange(2),
    )
    padded = dataclasses.replace(
        packed,
        pixels=torch.from_numpy(canvas.reshape(-1)),
        offset=torch.tensor([0, 30 * 40 * 3]),
        row_stride=torch.full((2,), 120, dtype=torch.int32),
    )
    table = view_params("simaugment", 0, 0, np.arange(2), 0, heights=heights, widths=widths)
    assert torch.equal(views(packed, table, size=16, **OFF), views(padded, table, size=16, **OFF))


@pytest.mark.gpu
def test_gpu_equals_cpu(batch):
    sizes = {"heights": batch.height.numpy(), "widths": batch.width.numpy()}
    table = view_params("simclr", 0, 0, batch.ids.numpy(), 0, **sizes)
    torch.backends.cuda.matmul.allow_tf32 = False
    on_gpu = kernels.views(batch.to("cuda"), table, size=32, **OFF).cpu()
    assert (on_gpu - kernels.views(batch, table, size=32, **OFF)).abs().max() < 1e-4


def assert_like_reference(batch: ImageBatch, table: ViewTable, size: int) -> None:
    ours = views_cpu.views(batch, table, size=size, **OFF)
    assert (ours - reference.views(batch, table, size=size, **OFF)).abs().max() <= 1e-5


@pytest.mark.parametrize("size", [1, 2, 3, 7, 15, 31, 65, 131])
@pytest.mark.parametrize("policy", ["simaugment", "simclr"])
def test_sizes_that_are_no_multiple_of_a_vector_or_a_tile(batch, policy, size):
    sizes = {"heights": batch.height.numpy(), "widths": batch.width.numpy()}
    table = view_params(policy, 5, 6, batch.ids.numpy(), 0, **sizes)
    assert_like_reference(batch, table, size)


def test_rows_wider_than_a_tile(batch, full_image_table):
    one = dataclasses.replace(batch, **{name: getattr(batch, name)[:1] for name in vars(batch) if name != "pixels"})
    table = full_image_table(one, contrast=torch.tensor([1.4]), hue=torch.tensor([0.1]), flip=torch.tensor([True]))
    assert_like_reference(one, table, views_cpu.TILE + 1)


@pytest.mark.parametrize("extend", [False, True])
@pytest.mark.parametrize("scale", [0.4, 1.0, 1.3, 1.9, 2.6, 9.0])
def test_every_number_of_filter_taps(batch, scale, extend, full_image_table):
    """From enlarging, 2 taps, to reducing ninefold, 18; boxes that are cut out are whole, as in training."""
    size = 8
    length = (torch.stack([batch.height, batch.width], 1) - 1).clamp(max=scale * size)
    start = (torch.stack([batch.height, batch.width], 1) - length) * torch.linspace(0, 1, COUNT)[:, None]
    box = torch.cat([start, length], 1)
    box = box if extend else box.floor()
    flip = torch.arange(COUNT) % 2 == 0
    table = full_image_table(batch, box=box, flip=flip, extend=torch.full((COUNT,), extend))
    assert_like_reference(batch, table, size)


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (7, 1), (2, 3)])
def test_images_and_boxes_of_one_pixel(rng, shape, full_image_table):
    images = [rng.integers(0, 256, (*shape, 3), dtype=np.uint8) for _ in range(2)]
    batch = ImageBatch.from_images(images, np.zeros(2, np.int64), np.arange(2))
    corner = torch.tensor([[shape[0] - 1.0, shape[1] - 1.0, 1.0, 1.0]]).repeat(2, 1)
    for box in (corner, full_image_table(batch).box):
        for size in (1, 5):
            assert_like_reference(batch, full_image_table(batch, box=box), size)
    pixel = views_cpu.views(batch, full_image_table(batch, box=corner), size=5, **OFF)
    assert torch.equal((pixel * 255).round().byte()[1, :, 4, 4], torch.from_numpy(images[1][-1, -1]))


@pytest.fixture
def colours() -> ImageBatch:
    """Every mixture of 0, 51, ... 255 in an image of its own size: grey, black, white, pure and two equal channels."""
    levels = np.arange(0, 256, 51, dtype=np.uint8)
    mixtures = np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), -1).reshape(-1, 3)
    image = np.resize(mixtures, (15, 15, 3))
    return ImageBatch.from_images([image], np.zeros(1, np.int64), np.arange(1))


@pytest.mark.parametrize("turns", [-0.5, -1 / 3, -1 / 6, -1e-3, 1e-3, 1 / 12, 1 / 6, 1 / 3, 0.5])
def test_hue_of_ties_and_extremes_equals_torchvision(views, colours, turns, full_image_table):
    ours = views(colours, full_image_table(colours, hue=torch.tensor([turns])), size=15, **OFF)[0]
    image = colours.image(0).permute(2, 0, 1).float() / 255
    assert (ours - tv.adjust_hue(image, turns)).abs().max() <= 2e-6


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (3, 2, 1, 0), (1, 3, 0, 2), (2, 0, 3, 1)])
@pytest.mark.parametrize("factor", [0.0, 0.6, 1.4, 2.0])
def test_strong_factors_on_extreme_colours_equal_torchvision(
    views, colours, torchvision_view, order, factor, full_image_table
):
    columns = {name: torch.tensor([factor]) for name in ("brightness", "contrast", "saturation")}
    table = full_image_table(
        colours, hue=torch.tensor([0.2]), order=torch.tensor([order], dtype=torch.uint8), **columns
    )
    theirs = torchvision_view(colours.image(0), table, 0, 15)
    assert (views(colours, table, size=15, **OFF)[0] - theirs).abs().max() <= 1e-5


def test_bfloat16_views_are_the_float32_views_rounded_as_torch_does(batch):
    sizes = {"heights": batch.height.numpy(), "widths": batch.width.numpy()}
    table = view_params("simclr", 1, 1, batch.ids.numpy(), 0, **sizes)
    normalise = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
    exact = views_cpu.views(batch, table, size=29, **normalise)
    rounded = views_cpu.views(batch, table, size=29, **normalise, dtype=torch.bfloat16)
    assert torch.equal(rounded, exact.to(torch.bfloat16)) and rounded.stride() == exact.stride()


def test_bfloat16_ties_and_extremes_round_as_torch_does(rng):
    lower = np.array([0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF], dtype=np.uint32)
    upper = np.array([0, 1, 0x3F80, 0x3F81, 0x7F7F, 0x7F80, 0x8000, 0xBF80, 0xBF81, 0xFF7F], dtype=np.uint32)
    ties = ((upper[:, None] << 16) | lower).ravel()
    bits = np.concatenate([ties[np.isfinite(ties.view(np.float32))], rng.integers(0, 0x7F80 << 16, 200, np.uint32)])
    ours = np.array([views_cpu._bfloat16(value) for value in bits.view(np.float32)], dtype=np.uint16)
    theirs = torch.from_numpy(bits.view(np.float32)).to(torch.bfloat16).view(torch.uint16).numpy()
    assert np.array_equal(ours, theirs)


def test_float16_is_the_rounded_float32(views, batch, full_image_table):
    table = full_image_table(batch)
    assert torch.equal(
        views(batch, table, size=20, **OFF, dtype=torch.float16), views(batch, table, size=20, **OFF).half()
    )


def test_memory_is_used_again_but_never_while_a_result_is_in_use(batch, full_image_table):
    table, dark = full_image_table(batch), full_image_table(batch, brightness=torch.zeros(COUNT))
    first = views_cpu.views(batch, table, size=37, **OFF)
    copy, address, part = first.clone(), first.data_ptr(), first[3]
    del first
    second = views_cpu.views(batch, dark, size=37, **OFF)
    assert torch.equal(part, copy[3]) and second.data_ptr() != address
    del part
    assert views_cpu.views(batch, dark, size=37, **OFF).data_ptr() == address
    assert second.data_ptr() % 64 == 0 and not second.any()


def test_memory_kept_for_later_is_bounded(batch, full_image_table):
    table = full_image_table(batch)
    results = [views_cpu.views(batch, table, size=11, **OFF) for _ in range(6)]
    del results
    assert len(views_cpu._spare) <= 2


def test_no_views_of_some_images(views, batch, full_image_table):
    table = ViewTable(**{name: column[:0] for name, column in vars(full_image_table(batch)).items()})
    assert views(batch, table, size=8, **OFF).shape == (0, 3, 8, 8)


def test_view_of_one_pixel(views, batch):
    sizes = {"heights": batch.height.numpy(), "widths": batch.width.numpy()}
    table = view_params("simclr", 0, 0, batch.ids.numpy(), 0, **sizes)
    assert views(batch, table, size=1, **OFF).isfinite().all()


def test_crop_that_does_not_fit_the_resized_image():
    with pytest.raises(ValueError, match="centre crop of 32 pixels"):
        eval_params(np.array([20]), np.array([30]), resize=16, size=32)
