"""Backend "triton" against float64: on a GPU if there is one, else small ragged shapes in Triton's interpreter."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from fastvarcon.kernels import varcon_chunked, varcon_tiles
from fastvarcon.losses import VarConLoss, varcon_loss, varcon_stats
from fastvarcon.losses.varcon_reference import rows_reference
from fastvarcon.losses.varcon_settings import Settings

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def batch(n: int, dim: int, classes: int, dtype: torch.dtype, collapsed: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Unit rows and labels, some of them ignored, in one of two regimes: ordinary, or close to the mean of a class."""
    generator = torch.Generator().manual_seed(n + dim)
    labels = torch.randint(-1, classes, (n,), generator=generator)
    rows = torch.randn(n, dim, generator=generator)
    if collapsed:
        rows = 0.5 * rows + 2 * torch.randn(classes, dim, generator=generator)[labels]
    return F.normalize(rows, dim=1).to(DEVICE, dtype), labels.to(DEVICE)


def value_and_gradient(z, labels, classes, **options) -> tuple[torch.Tensor, torch.Tensor]:
    """Row losses and the gradient of their weighted sum, as float64."""
    z = z.clone().requires_grad_()
    rows = varcon_loss(z, labels, classes, reduction="none", **options)
    (rows * weights(rows)).sum().backward()
    return rows.detach().double(), z.grad.double()


def weights(rows: torch.Tensor) -> torch.Tensor:
    return torch.linspace(0.5, 2, len(rows), device=rows.device, dtype=rows.dtype)


def torch_in(dtype: torch.dtype, z, labels, classes, *, tau1, eps, detach_centroids=True, detach_target=False):
    """As `value_and_gradient`, of the paper's equations with operands of `dtype`, added up in float32."""
    settings = Settings(classes, tau1, None, "none", detach_centroids, detach_target, "reference")
    z = z.clone().requires_grad_()
    rounded = z.to(dtype).float()
    valid = labels >= 0
    source = torch.where(valid[:, None], rounded.detach() if detach_centroids else rounded, 0)
    sums = source.new_zeros(classes, z.shape[1]).index_add(0, labels.clamp(min=0), source)
    w = F.normalize(sums, dim=1).to(dtype).float()
    present = torch.zeros(classes + 1, device=z.device).index_fill_(0, labels, 1)[:classes] > 0
    rows, _ = rows_reference(rounded, w, None, eps, labels, present, settings)
    (rows * weights(rows)).sum().backward()
    return rows.detach().double(), z.grad.double()


def assert_as_good_as_torch(z, labels, classes, *, tau1=0.1, eps=0.02, **options) -> None:
    """Error against float64 at most twice that of torch, in the norms of the row losses and of the gradient."""
    settings = {"tau1": tau1, "eps": eps, **options}
    exact = value_and_gradient(z.double(), labels, classes, backend="closed", **settings)
    ours = value_and_gradient(z, labels, classes, backend="triton", **settings)
    compute = torch.float32 if z.dtype == torch.float32 else torch.float16
    theirs = torch_in(compute, z.float(), labels, classes, **settings)
    for one, other, truth in zip(ours, theirs, exact, strict=True):
        assert one.isfinite().all()
        tiny = torch.finfo(torch.float32).eps * (truth.norm() + len(z) ** 0.5)
        assert (one - truth).norm() <= 2 * (other - truth).norm() + tiny


@pytest.fixture
def small_chunks(monkeypatch):
    """Long rows for the chunked way without their cost: no one-pass tile, and chunks of one tile of rows."""
    monkeypatch.setattr(varcon_tiles, "TABLES", {})
    monkeypatch.setattr(varcon_tiles, "AMPERE", {})
    monkeypatch.setattr(varcon_chunked, "CHUNK_BYTES", 1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("tau1", [0.1, 0.02])  # constant offset, running maximum
@pytest.mark.parametrize(
    ("n", "dim", "classes", "collapsed"),
    [(1, 5, 3, False), (130, 33, 7, False), (130, 33, 7, True), (70, 130, 150, True)],
)
def test_error_is_that_of_torch(n, dim, classes, tau1, dtype, collapsed):
    z, labels = batch(n, dim, classes, dtype, collapsed)
    assert_as_good_as_torch(z, labels, classes, tau1=tau1, eps=tau1 / 5)


def outlier(tau1: float, dtype: torch.dtype) -> None:
    """Three classes around one direction, and a row of the first class that is opposite to all of them: of its
    probabilities, float16 has to hold the smallest that a temperature allows."""
    noise = 0.02 * torch.randn(60, 16, generator=torch.Generator().manual_seed(0))
    rows = torch.eye(1, 16).expand(60, -1) + noise
    rows[0] = -torch.eye(1, 16)
    z, labels = F.normalize(rows, dim=1).to(DEVICE, dtype), (torch.arange(60) % 3).to(DEVICE)
    assert_as_good_as_torch(z, labels, 3, tau1=tau1, eps=tau1 / 5)


RANGES = [(0.07, torch.float16), (0.085, torch.float16), (0.1, torch.float16), (0.03, torch.float32)]


@pytest.mark.parametrize(("tau1", "dtype"), RANGES)
def test_a_row_opposite_to_all_centroids(tau1, dtype):
    outlier(tau1, dtype)


@pytest.mark.parametrize(("tau1", "dtype"), RANGES)
def test_a_row_opposite_to_all_centroids_in_chunks(small_chunks, tau1, dtype):
    outlier(tau1, dtype)


@pytest.mark.parametrize("collapsed", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("detach_target", [False, True])
def test_attached_centroids(dtype, collapsed, detach_target):
    z, labels = batch(90, 40, 70, dtype, collapsed)
    assert_as_good_as_torch(z, labels, 70, detach_centroids=False, detach_target=detach_target)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize(("tau1", "detach_centroids"), [(0.1, False), (0.02, True), (0.02, False)])
def test_chunked_rows(small_chunks, dtype, tau1, detach_centroids):
    z, labels = batch(150, 70, 140, dtype, collapsed=False)
    assert_as_good_as_torch(z, labels, 140, tau1=tau1, eps=tau1 / 5, detach_centroids=detach_centroids)


def test_long_rows():
    z, labels = batch(20, 2048, 9, torch.float16, collapsed=False)
    assert_as_good_as_torch(z, labels, 9, detach_centroids=False)


OPTIONS = [
    {"terms": "kl"},
    {"terms": "nll"},
    {"leave_one_out": True},
    {"leave_one_out": True, "detach_centroids": False},
    {"class_sums": "sorted"},
    {"class_sums": "atomic"},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_options_equal_the_closed_form(options):
    z, labels = batch(60, 24, 20, torch.float32, collapsed=False)
    closed = {name: value for name, value in options.items() if name != "class_sums"}
    loss, gradient = value_and_gradient(z, labels, 20, backend="triton", **options)
    exact, exact_gradient = value_and_gradient(z.double(), labels, 20, backend="closed", **closed)
    assert (loss - exact).abs().max() <= 1e-5 and (gradient - exact_gradient).norm() <= 1e-5 * exact_gradient.norm()


def test_gradient_of_eps():
    z, labels = batch(60, 24, 20, torch.float32, collapsed=False)
    gradients = []
    for backend, dtype in (("triton", torch.float32), ("closed", torch.float64)):
        eps = torch.tensor(0.03, dtype=dtype, device=DEVICE, requires_grad=True)
        varcon_loss(z.to(dtype), labels, 20, eps=eps, backend=backend).backward()
        gradients.append(eps.grad.item())
    assert gradients[0] == pytest.approx(gradients[1], rel=1e-4)


def test_prototypes():
    z, labels = batch(60, 24, 20, torch.float32, collapsed=False)
    losses = [VarConLoss(20, prototype_momentum=0.9, dim=24, backend=name).to(DEVICE) for name in ("triton", "closed")]
    for rows in (slice(0, 25), slice(20, 60)):
        one, other = (loss(z[rows], labels[rows]) for loss in losses)
        assert one.item() == pytest.approx(other.item(), rel=1e-5)


@pytest.mark.parametrize("chunked", [False, True])
def test_statistics(chunked, request):
    if chunked:
        request.getfixturevalue("small_chunks")
    z, labels = batch(70, 24, 20, torch.float32, collapsed=False)
    ours = varcon_stats(z, labels, 20, backend="triton")
    exact = varcon_stats(z.double(), labels, 20, backend="reference")
    for name, column in vars(exact).items():
        torch.testing.assert_close(getattr(ours, name).double(), column, rtol=1e-5, atol=1e-5, msg=name)


def test_classes_absent_from_the_batch_are_left_out_of_the_table():
    """1000 classes and 70 rows: labels are numbered anew, value and gradient stay."""
    z, labels = batch(70, 24, 20, torch.float32, collapsed=False)
    spread = torch.where(labels < 0, labels, labels * 49 + 3)
    dense, wide = (value_and_gradient(z, y, c, backend="triton") for y, c in ((labels, 20), (spread, 1000)))
    for one, other in zip(dense, wide, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("detach_centroids", [True, False])
@pytest.mark.parametrize("case", ["no rows", "all ignored", "one class", "opposite rows", "not a number"])
def test_edge_cases(case, detach_centroids):
    z, labels = batch(6, 16, 3, torch.float32, collapsed=False)
    labels = labels.clamp(min=0)
    if case == "no rows":
        z, labels = z[:0], labels[:0]
    elif case == "all ignored":
        labels = torch.full_like(labels, -1)
    elif case == "one class":
        labels = torch.full_like(labels, 2)
    elif case == "opposite rows":
        z[1], labels[:2], labels[2:] = -z[0], 0, 1
    else:
        z[1], labels[1] = torch.nan, -1
    z.requires_grad_()
    loss = varcon_loss(z, labels, 3, backend="triton", detach_centroids=detach_centroids)
    loss.backward()
    counted = labels >= 0
    assert loss.isfinite() and z.grad[counted].isfinite().all()
    if case in ("no rows", "all ignored", "one class"):
        assert loss == 0 and (z.grad == 0).all()


def test_non_contiguous_rows_and_narrow_labels():
    z, labels = batch(40, 24, 20, torch.float32, collapsed=False)
    expected = varcon_loss(z, labels, 20, backend="triton")
    strided = torch.cat([z, z], dim=1)[:, :24]
    assert varcon_loss(strided, labels.to(torch.int32), 20, backend="triton") == expected
    assert varcon_loss(z.T.contiguous().T, labels, 20, backend="triton") == expected


def test_double_backward_is_refused():
    z, labels = batch(20, 16, 4, torch.float32, collapsed=False)
    z.requires_grad_()
    [gradient] = torch.autograd.grad(varcon_loss(z, labels, 4, backend="triton").square(), z, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


@pytest.mark.parametrize("options", [{}, {"detach_centroids": False}, {"leave_one_out": True}], ids=str)
def test_torch_compile_takes_it_whole(options):
    z, labels = batch(40, 16, 4, torch.float32, collapsed=False)

    def loss(x):
        return varcon_loss(x, labels, 4, backend="triton", **options)

    compiled = torch.compile(loss, backend="aot_eager", fullgraph=True)
    one, other = z.clone().requires_grad_(), z.clone().requires_grad_()
    loss(one).backward()
    compiled(other).backward()
    assert torch.equal(one.grad, other.grad)


def test_autocast_changes_nothing():
    z, labels = batch(40, 16, 4, torch.float32, collapsed=False)
    plain = varcon_loss(z, labels, 4, backend="triton")
    with torch.autocast(DEVICE.type, dtype=torch.bfloat16):
        assert varcon_loss(z, labels, 4, backend="triton") == plain


def test_what_triton_does_not_take():
    z, labels = batch(10, 16, 4, torch.float32, collapsed=False)
    with pytest.raises(ValueError, match="take backend 'closed'"):
        varcon_loss(z.double(), labels, 4, backend="triton")
    with pytest.raises(ValueError, match="2048 columns"):
        varcon_loss(torch.zeros(10, 2049, device=DEVICE), labels, 4, backend="triton")
    assert varcon_loss(z.double(), labels, 4).dtype == torch.float64


def test_triton_without_cuda_says_so(monkeypatch):
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    with pytest.raises(ValueError, match="needs rows on a CUDA device: move them there, or take backend 'closed'"):
        varcon_loss(torch.ones(2, 4), torch.zeros(2).long(), 2, backend="triton")


# ---- on a GPU ------------------------------------------------------------------------------------------------------

SIZES = [(8192, 128, 1000), (1024, 512, 5000), (2048, 256, 100), (512, 1024, 3000)]


def step(z, labels, classes, **options) -> torch.Tensor:
    """Loss and gradient of the mean, in one row."""
    z = z.detach().requires_grad_()
    loss = varcon_loss(z, labels, classes, backend="triton", **options)
    loss.backward()
    return torch.cat([loss.detach().reshape(1), z.grad.float().flatten()])


@pytest.mark.gpu
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("collapsed", [False, True])
@pytest.mark.parametrize("detach_centroids", [True, False])
def test_gpu_error_is_that_of_torch(size, dtype, collapsed, detach_centroids):
    rows, dim, classes = size
    z, labels = batch(rows, dim, classes, dtype, collapsed)
    assert_as_good_as_torch(z, labels, classes, detach_centroids=detach_centroids)


@pytest.mark.gpu
@pytest.mark.parametrize("size", [*SIZES, (65536, 512, 22000)], ids=str)
@pytest.mark.parametrize("detach_centroids", [True, False])
def test_gpu_repeats_to_the_bit_and_waits_for_nothing(size, detach_centroids):
    rows, dim, classes = size
    z, labels = batch(rows, dim, classes, torch.bfloat16, collapsed=False)
    first = step(z, labels, classes, detach_centroids=detach_centroids)
    torch.cuda.set_sync_debug_mode("error")
    try:
        second = step(z, labels, classes, detach_centroids=detach_centroids)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.equal(first, second)


@pytest.mark.gpu
@pytest.mark.parametrize("options", [{}, {"detach_centroids": False}, {"class_sums": "sorted"}], ids=str)
def test_gpu_graph(options):
    """Captured once, replayed on other rows and labels."""
    z, labels = batch(512, 128, 300, torch.bfloat16, collapsed=False)
    static_z, static_labels = z.clone(), labels.clone()
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        step(static_z, static_labels, 300, **options)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step(static_z, static_labels, 300, **options)
    static_z.copy_(z.flip(0))
    static_labels.copy_(labels.roll(7))
    graph.replay()
    assert torch.equal(captured, step(z.flip(0), labels.roll(7), 300, **options))


@pytest.mark.gpu
@pytest.mark.parametrize("options", [{}, {"detach_centroids": False}], ids=str)
def test_gpu_compiled_by_inductor(options):
    z, labels = batch(512, 128, 300, torch.bfloat16, collapsed=False)
    compiled = torch.compile(lambda x: varcon_loss(x, labels, 300, backend="triton", **options), fullgraph=True)
    x = z.clone().requires_grad_()
    compiled(x).backward()
    assert torch.equal(x.grad.float().flatten(), step(z, labels, 300, **options)[1:])


@pytest.mark.gpu
@pytest.mark.parametrize(("size", "budget"), [((8192, 128, 1000), 8e6), ((65536, 512, 22000), 400e6)])
def test_gpu_memory(size, budget):
    rows, dim, classes = size
    z, labels = batch(rows, dim, classes, torch.bfloat16, collapsed=False)
    z.requires_grad_()
    varcon_loss(z, labels, classes).backward()
    z.grad = None
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    varcon_loss(z, labels, classes).backward()
    assert torch.cuda.max_memory_allocated() - before <= budget


@pytest.mark.gpu
def test_gpu_offsets_beyond_32_bits():
    """N x D > 2^31: the last rows are those of a small batch of their own."""
    rows, dim = 2**31 // 512 + 64, 512
    z = torch.zeros(rows, dim, dtype=torch.bfloat16, device=DEVICE)
    labels = torch.full((rows,), -1, device=DEVICE)
    z[-100:], labels[-100:] = batch(100, dim, 9, torch.bfloat16, collapsed=False)
    ours, alone = step(z, labels, 9), step(z[-100:], labels[-100:], 9)
    assert torch.allclose(ours[0], alone[0], rtol=1e-6) and torch.allclose(ours[-51200:], alone[1:], atol=1e-7)
