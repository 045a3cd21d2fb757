"""The Triton view kernel against plain torch: on a GPU if there is one, else small batches in Triton's interpreter."""

import dataclasses

import numpy as np
import pytest
import torch

from fastvarcon import kernels
from fastvarcon.data.augment import OP_ORDERS, ViewTable, eval_params, view_params
from fastvarcon.data.batch import ImageBatch
from fastvarcon.kernels import reference, views_triton
from fastvarcon.kernels.view_plan import make_plan

OFF = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}
NORMALISE = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
CPU = torch.device("cpu")
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def make_batch(rng, sizes) -> ImageBatch:
    """Images of random pixels: harder than photographs, where neighbours agree. Pixels on DEVICE, sizes on the host."""
    images = [rng.integers(0, 256, (h, w, 3), dtype=np.uint8) for h, w in sizes]
    return on_device(ImageBatch.from_images(images, np.zeros(len(images), np.int64), np.arange(len(images))))


def on_device(batch: ImageBatch) -> ImageBatch:
    return dataclasses.replace(batch, pixels=batch.pixels.to(DEVICE))


def random_table(batch: ImageBatch, policy: str, num_views: int = 1, epoch: int = 0) -> ViewTable:
    sizes = {"heights": batch.height.numpy(), "widths": batch.width.numpy()}
    views = [view_params(policy, 0, epoch, batch.ids.numpy(), view, **sizes) for view in range(num_views)]
    return ViewTable.cat(views)


def assert_like_reference(batch: ImageBatch, table: ViewTable, size: int) -> None:
    ours = views_triton.views(batch, table, size=size, **OFF).cpu()
    assert ours.dtype == torch.float32 and ours.is_contiguous(memory_format=torch.channels_last)
    theirs = reference.views(batch.to(CPU), table, size=size, **OFF)
    assert (ours - theirs).abs().max() <= 1e-5


@pytest.fixture
def batch(rng) -> ImageBatch:
    return make_batch(rng, [(10, 31), (29, 16), (24, 24), (40, 13), (17, 37)])


@pytest.fixture
def pair(rng) -> ImageBatch:
    return make_batch(rng, [(10, 31), (24, 24)])


@pytest.mark.parametrize(("policy", "size"), [("simaugment", 9), ("simclr", 24), ("crop-flip", 17)])
def test_policies(batch, policy, size):
    assert_like_reference(batch, random_table(batch, policy, num_views=2), size)


def test_more_than_a_tile(pair):
    table = random_table(pair, "simclr")
    table.blur_sigma[:] = torch.tensor([1.0, 0.0])
    assert_like_reference(pair, table, 33)


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("brightness", 1.7),
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
def test_each_operation_alone(pair, column, value, full_image_table):
    changed = torch.full_like(getattr(full_image_table(pair), column), value)
    assert_like_reference(pair, full_image_table(pair, **{column: changed}), 20)


def test_all_operations_in_all_orders(rng, full_image_table):
    count = len(OP_ORDERS)
    batch = make_batch(rng, [(12, 12)] * count)
    factors = {name: torch.full((count,), value) for name, value in (("brightness", 1.4), ("contrast", 0.5))}
    factors |= {name: torch.full((count,), value) for name, value in (("saturation", 1.6), ("hue", 0.2))}
    every_second = torch.arange(count) % 2
    table = full_image_table(
        batch,
        order=torch.from_numpy(OP_ORDERS),
        flip=every_second == 1,
        blur_sigma=0.8 * every_second,
        solarize=torch.full((count,), 0.5),
        **factors,
    )
    assert_like_reference(batch, table, 8)


@pytest.mark.parametrize(("resize", "size"), [(20, 16), (16, 16), (50, 35)])
def test_evaluation_reads_beyond_the_box(batch, resize, size):
    assert_like_reference(batch, eval_params(batch.height.numpy(), batch.width.numpy(), resize=resize, size=size), size)


def test_boxes_and_images_of_one_pixel(rng, full_image_table):
    batch = make_batch(rng, [(1, 1), (1, 20), (17, 1), (9, 9), (9, 9)])
    table = full_image_table(batch, contrast=torch.full((5,), 0.5), blur_sigma=torch.full((5,), 0.7))
    table.box[3:] = torch.tensor([[8.0, 8.0, 1.0, 1.0], [0.0, 3.0, 9.0, 1.0]])
    assert_like_reference(batch, table, 12)
    assert_like_reference(batch, table, 1)


def test_normalised_half_precision_is_the_rounded_float32(batch):
    table = random_table(batch, "simclr")
    exact = views_triton.views(batch, table, size=20, **NORMALISE)
    assert torch.allclose(exact.cpu(), reference.views(batch.to(CPU), table, size=20, **NORMALISE), atol=5e-5)
    for dtype in (torch.float16, torch.bfloat16)[: 1 if DEVICE == CPU else 2]:  # the interpreter has no bfloat16
        half = views_triton.views(batch, table, size=20, **NORMALISE, dtype=dtype)
        torch.testing.assert_close(half, exact.to(dtype), rtol=torch.finfo(dtype).eps, atol=1e-6)


def test_rows_do_not_depend_on_their_company(pair):
    """In a batch and alone: no row sees another, and blurred rows keep to their own scratch."""
    table = random_table(pair, "simclr", num_views=2)
    table.blur_sigma[:] = torch.tensor([1.0, 0.0, 0.0, 1.0])
    together = views_triton.views(pair, table, size=12, **OFF)
    for row in range(len(table)):
        image = row % len(pair)
        one = {name: column[row : row + 1] for name, column in vars(table).items()}
        columns = {name: getattr(pair, name)[image : image + 1] for name in vars(pair) if name != "pixels"}
        alone = views_triton.views(dataclasses.replace(pair, **columns), ViewTable(**one), size=12, **OFF)
        assert torch.allclose(together[row], alone[0], atol=1e-6)


def test_padded_rows_far_into_a_buffer_are_read_in_place(rng):
    """Images in a canvas, 2 GiB into the buffer: offsets need 64 bits."""
    far = 2**31 + 7
    canvas = rng.integers(0, 256, (2, 20, 30, 3), dtype=np.uint8)
    heights, widths = np.array([15, 20]), np.array([30, 19])
    packed = ImageBatch.from_images(
        [canvas[i, :h, :w] for i, (h, w) in enumerate(zip(heights, widths, strict=True))],
        np.zeros(2, np.int64),
        np.arange(2),
    )
    pixels = torch.empty(far + canvas.size, dtype=torch.uint8, device=DEVICE)
    pixels[far:] = torch.from_numpy(canvas.reshape(-1))
    offset, stride = torch.tensor([far, far + 20 * 90]), torch.full((2,), 90, dtype=torch.int32)
    padded = dataclasses.replace(packed, pixels=pixels, offset=offset, row_stride=stride)
    table = random_table(packed, "simaugment")
    ours = [views_triton.views(batch, table, size=10, **OFF) for batch in (on_device(packed), padded)]
    assert torch.equal(*ours)


def test_plan_takes_over_the_rows_of_another(batch):
    tables = [random_table(batch, "simclr", epoch=epoch) for epoch in range(2)]
    plans = [make_plan(batch, table, 10).to(DEVICE) for table in tables]
    fixed = dataclasses.replace(plans[0], slots=len(batch))
    fixed.update(plans[1])
    made = views_triton.launch(batch.pixels, fixed, **OFF)
    assert torch.allclose(made, views_triton.views(batch, tables[1], size=10, **OFF), atol=1e-6)


def test_plan_that_does_not_fit_into_another(batch, full_image_table):
    plan = make_plan(batch, full_image_table(batch), 10)
    with pytest.raises(
        ValueError,
        match=r"\(5, 5, 11, False, 1, False\) and 0 slots does not fit into one of \(5, 5, 10, False, 1, False\) and 0",
    ):
        plan.update(make_plan(batch, full_image_table(batch), 11))
    with pytest.raises(ValueError, match="5 slots does not fit"):
        plan.update(make_plan(batch, full_image_table(batch, blur_sigma=torch.ones(5)), 10))


def test_dispatch(batch, monkeypatch):
    monkeypatch.setattr(kernels, "views_backend", lambda device, dtype: "triton")
    table = random_table(batch, "simaugment")
    dispatched = kernels.views(batch, table, size=8, **NORMALISE, dtype=torch.float16)
    assert torch.equal(dispatched, views_triton.views(batch, table, size=8, **NORMALISE, dtype=torch.float16))


def test_batch_of_nothing(batch, full_image_table):
    nothing = ImageBatch(**{name: column[:0] for name, column in vars(batch).items()})
    table = ViewTable(**{name: column[:0] for name, column in vars(full_image_table(batch)).items()})
    assert views_triton.views(nothing, table, size=8, **OFF).shape == (0, 3, 8, 8)


# ---- on a GPU ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def large() -> ImageBatch:
    rng = np.random.default_rng(0)
    return make_batch(rng, rng.integers(150, 500, (48, 2)))


@pytest.mark.gpu
@pytest.mark.parametrize(
    ("policy", "size"), [("simaugment", 224), ("simclr", 224), ("simclr", 161), ("simaugment", 32)]
)
def test_gpu_float32_and_rounding(large, policy, size):
    table = random_table(large, policy, num_views=2)
    exact = reference.views(large.to(CPU), table, size=size, **OFF, dtype=torch.float64)
    for dtype, rounding in ((torch.float32, 0), (torch.float16, 2**-12), (torch.bfloat16, 2**-9)):
        ours = kernels.views(large, table, size=size, **OFF, dtype=dtype).cpu().double()
        assert (ours - exact).abs().max() <= 1e-5 + rounding


@pytest.mark.gpu
def test_gpu_repeats_its_bits(large):
    table = random_table(large, "simclr", num_views=2)
    first, second = (kernels.views(large, table, size=224, **NORMALISE, dtype=torch.bfloat16) for _ in range(2))
    assert torch.equal(first, second)


@pytest.mark.gpu
def test_gpu_is_never_waited_for(large):
    table = random_table(large, "simclr", num_views=2)
    kernels.views(large, table, size=64, **NORMALISE)
    torch.cuda.set_sync_debug_mode("error")
    try:
        kernels.views(large, table, size=64, **NORMALISE)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.gpu
def test_gpu_reads_page_locked_pixels_in_place(large):
    table = random_table(large, "simaugment")
    host = large.to(CPU)
    locked = dataclasses.replace(host, pixels=host.pixels.pin_memory())
    made = kernels.views(locked, table, size=64, **NORMALISE, device="cuda")
    assert made.is_cuda and torch.equal(made, kernels.views(large, table, size=64, **NORMALISE))
    with pytest.raises(ValueError, match="only where they are page-locked"):
        kernels.views(host, table, size=64, **NORMALISE, device="cuda")


@pytest.mark.gpu
def test_gpu_graph_is_captured_once_and_replayed_with_other_rows(large):
    tables = [random_table(large, "simclr", num_views=2, epoch=epoch) for epoch in range(3)]
    plans = [make_plan(large, table, 96) for table in tables]
    fixed = dataclasses.replace(plans[0].to(DEVICE), slots=plans[0].rows)
    views_triton.launch(large.pixels, fixed, **NORMALISE)  # compiled before the capture
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        made = views_triton.launch(large.pixels, fixed, **NORMALISE)
    for table, plan in zip(tables, plans, strict=True):
        fixed.update(plan)
        graph.replay()
        assert torch.equal(made, kernels.views(large, table, size=96, **NORMALISE))


@pytest.mark.gpu
def test_gpu_compiles_nothing_for_another_size(large, monkeypatch):
    import triton

    table = random_table(large, "simaugment", num_views=2)
    kernels.views(large, table, size=160, **NORMALISE)
    compiled = []
    monkeypatch.setattr(triton.knobs.runtime, "jit_cache_hook", lambda **compilation: compiled.append(compilation))
    for size in range(160, 225, 8):
        kernels.views(large, table, size=size, **NORMALISE)
    assert not compiled
