"""The Triton contrastive kernels against the reference in float64: on a GPU if there is one, else small batches in
Triton's interpreter.
"""

import pytest
import torch
import torch.nn.functional as F

pytest.importorskip("triton", reason="triton is not on this system")

from fastvarcon.kernels import contrastive, contrastive_torch
from fastvarcon.kernels.contrastive_form import Form, row_scalars

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
FORMS = {
    "plain": Form(0.2),
    "inside": Form(0.2, inside=True),
    "own": Form(0.2, own=True),
    "own beta": Form(0.2, own=True, beta=1.0),
    "beta 0": Form(0.2, beta=0.0),
    "cold": Form(0.01, own=True),
}
SLACK = {torch.float32: 2e-5, torch.float16: 4e-3}


def make(images: int, dim: int, dtype: torch.dtype, collapsed=False, classes=4, seed=0):
    """Rounded rows, two views of each image, ids of class positives and class denominators; one row takes no part, one
    has no positive.
    """
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (images,), generator=generator)
    z = torch.randn(2, images, dim, generator=generator)
    if collapsed:
        z = 0.2 * z + torch.randn(classes, dim, generator=generator)[labels]
    z = F.normalize(z.flatten(0, 1), dim=1).to(dtype)
    label = labels.repeat(2).to(torch.int32)
    ids = torch.stack([label, torch.arange(2 * images, dtype=torch.int32), label])
    ids[2, 3], ids[0, 5] = -1, 99
    return z.to(DEVICE), ids.to(DEVICE)


def exact(z, ids, form, mine=slice(None)):
    """Losses, log-denominators and the gradient of a weighted sum of both, in float64 by autograd."""
    z = z.double().requires_grad_()
    table = contrastive_torch.reference(z, z, ids, ids, form)
    g, h = upstream(len(z), z.device)
    usable = table.den > -torch.inf
    total = (torch.where(usable, table.loss, 0) * g).sum() + (torch.where(usable, table.den, 0) * h).sum()
    total.backward()
    return table.loss[mine].detach(), table.den[mine].detach(), z.grad[mine]


def upstream(n: int, device) -> tuple[torch.Tensor, torch.Tensor]:
    """Weights of a mean over many rows, of either sign."""
    g = torch.linspace(-1, 3, n, dtype=torch.float64, device=device) / 10_000
    return g, g.flip(0) / 2


def fused(z, ids, form, mine=slice(None)):
    whole = contrastive.row_table(z, z, ids, ids, form)
    table = contrastive.row_table(z[mine], z, ids[:, mine], ids, form)
    g, h = (weight.float() for weight in upstream(len(z), z.device))
    scalars = row_scalars(whole, g, h, form)
    dz = contrastive.gradient(z[mine], z, ids[:, mine], ids, scalars[:, mine], scalars, form)
    return table.loss, table.den, dz


def assert_close(results, references, slack: float) -> None:
    for ours, theirs in zip(results, references, strict=True):
        usable = theirs.isfinite()
        assert torch.equal(ours.isfinite(), usable)
        theirs = theirs[usable]
        assert (ours[usable] - theirs).abs().max() <= slack * theirs.abs().max()


@pytest.mark.parametrize("dtype", SLACK)
@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("collapsed", [False, True])
def test_forms(name, dtype, collapsed):
    z, ids = make(33, 20, dtype, collapsed)
    assert_close(fused(z, ids, FORMS[name]), exact(z, ids, FORMS[name]), SLACK[dtype])


@pytest.mark.parametrize(("images", "dim"), [(3, 1), (40, 64), (70, 128), (20, 200), (20, 512)])
def test_ragged_shapes(images, dim):
    z, ids = make(images, dim, torch.float32)
    assert_close(fused(z, ids, FORMS["plain"]), exact(z, ids, FORMS["plain"]), 2e-5)


@pytest.mark.parametrize("name", ["plain", "own beta"])
def test_rows_that_are_some_of_the_keys(name):
    z, ids = make(33, 20, torch.float32)
    mine = slice(22, 44)
    assert_close(fused(z, ids, FORMS[name], mine), exact(z, ids, FORMS[name], mine), 2e-5)


def test_nobody_in_the_denominator():
    """A single class: no log-denominator, no gradient, no NaN."""
    z, ids = make(10, 8, torch.float32, classes=1)
    ids[2] = 0
    loss, den, dz = fused(z, ids, FORMS["plain"])
    assert den.isneginf().all() and (dz == 0).all() and not loss.isnan().any()


def test_gradient_of_nothing_is_zero():
    z, ids = make(10, 8, torch.float16)
    zero = torch.zeros(4, 20, device=DEVICE)
    assert (contrastive.gradient(z, z, ids, ids, zero, zero, FORMS["plain"]) == 0).all()


def test_small_upstream_gradients_survive_float16():
    """The mean over 65,536 rows in a loss that is scaled down by 2^20: far below what float16 holds."""
    z, ids = make(20, 16, torch.float16)
    form = FORMS["plain"]
    table = contrastive.row_table(z, z, ids, ids, form)
    ones, none = torch.ones(40, device=DEVICE), torch.zeros(40, device=DEVICE)
    scalars, tiny = row_scalars(table, ones, none, form), row_scalars(table, ones * 2.0**-36, none, form)
    full, small = (contrastive.gradient(z, z, ids, ids, s, s, form) for s in (scalars, tiny))
    torch.testing.assert_close(small * 2.0**36, full, rtol=1e-6, atol=0)


@pytest.mark.parametrize(
    ("z", "message"),
    [
        (torch.zeros(4, 8, dtype=torch.float64), "float16, bfloat16 or float32 rows, got torch.float64"),
        (torch.zeros(4, 513), "at most 512 columns, got 513"),
    ],
)
def test_rows_that_it_cannot_take(z, message):
    ids = torch.zeros(3, 4, dtype=torch.int32)
    with pytest.raises(ValueError, match=message):
        contrastive.row_table(z, z, ids, ids, FORMS["plain"])


@pytest.mark.gpu
@pytest.mark.parametrize("name", FORMS)
def test_on_a_gpu_no_worse_than_torch_and_repeatable(name):
    form = FORMS[name]
    for dtype in (torch.float16, torch.bfloat16):
        z, ids = make(700, 128, dtype, collapsed=True)
        truth, ours = exact(z, ids, form), fused(z, ids, form)
        assert all(torch.equal(a, b) for a, b in zip(ours, fused(z, ids, form), strict=True))
        x = z.detach().requires_grad_()
        table = contrastive_torch.reference(x, x, ids, ids, form)  # in the same dtype
        g, h = upstream(len(z), z.device)
        usable = table.den > -torch.inf
        ((torch.where(usable, table.loss, 0) * g + torch.where(usable, table.den, 0) * h).sum()).backward()
        for mine, torchs, exactly in zip(ours, (table.loss, table.den, x.grad), truth, strict=True):
            usable = exactly.isfinite()
            error, allowed = ((r[usable] - exactly[usable]).abs().max() for r in (mine, torchs))
            assert error <= 2 * allowed + 1e-6 * exactly[usable].abs().max()


@pytest.mark.gpu
def test_on_a_gpu_without_waiting_and_within_its_memory():
    from fastvarcon.losses import ContrastiveLoss

    rows, dim = 16_384, 128
    labels = torch.arange(rows // 2, device=DEVICE).remainder(100).repeat(2)
    loss = ContrastiveLoss("supcon", pos="class", temperature=0.1)
    z = F.normalize(torch.randn(rows, dim, device=DEVICE), dim=1).requires_grad_()
    loss(z, labels).backward()  # compiles
    z.grad = None
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    torch.cuda.set_sync_debug_mode("error")
    try:
        loss(z, labels).backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.cuda.max_memory_allocated() - before <= 64 << 20
