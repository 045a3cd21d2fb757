"""The contrastive family in one process: golden values, other people's losses, gradients, edge cases."""

import pytest
import torch
import torch.nn.functional as F

from fastvarcon.errors import UserError
from fastvarcon.kernels import contrastive_torch
from fastvarcon.losses import ContrastiveLoss

BACKENDS = ("reference", "closed")
OTHERS = {"pos": "class", "den": "class"}
PAIRS = {  # golden values by the flags that make them
    "simclr": {},
    "simclr_double_counted_positive_refcode": {"own": True},
    "dcl": {"den": "image"},
    "nscl_paper": {"den": "class"},
    "nscl_refcode_own_positive_in_den": {"den": "class", "own": True},
    "supcon_out": {"pos": "class"},
    "supcon_in": {"pos": "class", "reduce": "in"},
    "sincere_class_pos_own_plus_neg_den": {**OTHERS, "own": True},
    "hybrid_class_pos_neg_only_den": OTHERS,
    **{f"hscl_pairs_beta{beta}": {**OTHERS, "own": True, "reduce": "pairs", "beta": beta} for beta in (0, 1, 5)},
}


def random_rows(images=11, views=2, dim=5, classes=4, collapsed=False, seed=0):
    """Unit rows, view-major, and labels, in one of two regimes: ordinary, or views close to their class."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (images,), generator=generator)
    rows = torch.randn(views, images, dim, generator=generator, dtype=torch.float64)
    if collapsed:
        rows = 0.15 * rows + 2 * torch.randn(classes, dim, generator=generator, dtype=torch.float64)[labels]
    return F.normalize(rows.flatten(0, 1), dim=1), labels.repeat(views)


def value_and_gradient(loss: torch.nn.Module, z, labels):
    z = z.clone().requires_grad_()
    value = loss(z, labels)
    value.backward()
    return value.detach(), z.grad


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("tau", [1.0, 0.5, 0.1])
def test_golden_values(golden, golden_rows, name, backend, tau):
    loss = ContrastiveLoss(temperature=tau, backend=backend, **PAIRS[name])
    assert loss(*golden_rows).item() == pytest.approx(golden[str(tau)][name], abs=1e-10)


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("collapsed", [False, True])
@pytest.mark.parametrize(("tau", "views"), [(0.5, 2), (0.1, 3)])
def test_closed_form_equals_the_equations(name, collapsed, tau, views, monkeypatch):
    monkeypatch.setattr(contrastive_torch, "CHUNK", 7 * 33)  # several chunks, the last one short
    z, labels = random_rows(views=views, collapsed=collapsed)
    labels[3::11] = -1  # the views of one image
    results = [
        value_and_gradient(ContrastiveLoss(temperature=tau, num_views=views, backend=backend, **PAIRS[name]), z, labels)
        for backend in BACKENDS
    ]
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", [name for name in PAIRS if "hscl" not in name])
def test_gradcheck(name):
    """hscl's weights are detached, so that its gradient is not the derivative of its value."""
    z, labels = random_rows(images=5, classes=2)
    loss = ContrastiveLoss(temperature=0.5, **PAIRS[name])
    assert torch.autograd.gradcheck(lambda x: loss(x, labels), z.requires_grad_())


def test_gradients_of_denominators_and_of_single_rows():
    z, labels = random_rows()
    weights = torch.linspace(-1, 2, len(z), dtype=z.dtype)
    gradients = []
    for backend in BACKENDS:
        z.grad = None
        rows = ContrastiveLoss(pos="class", den="class", own=True, temperature=0.3, backend=backend).rows(
            z.requires_grad_(), labels
        )
        ((rows.loss + rows.den.square()) * weights).sum().backward()
        gradients.append(z.grad)
    torch.testing.assert_close(*gradients, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ({"pos": "class"}, "SupConLoss"),
        ({"pos": "aug"}, "NTXentLoss"),
        ({"pos": "class", "den": "class", "own": True, "reduce": "pairs"}, "NTXentLoss"),
    ],
)
@pytest.mark.parametrize("tau", [0.1, 0.5])
def test_pytorch_metric_learning(ours, theirs, tau):
    """Their NT-Xent with class labels is the mean over pairs with the own positive and other classes: SINCERE's."""
    losses = pytest.importorskip("pytorch_metric_learning.losses", reason="pytorch-metric-learning is not installed")
    z, labels = random_rows(images=30, collapsed=True)
    by = labels if ours["pos"] == "class" else torch.arange(30).repeat(2)
    raw = [2 * z.clone().requires_grad_() for _ in range(2)]  # they normalise rows themselves
    for x in raw:
        x.retain_grad()
    values = (
        ContrastiveLoss(temperature=tau, **ours)(F.normalize(raw[0], dim=1), labels),
        getattr(losses, theirs)(temperature=tau)(raw[1], by),
    )
    torch.testing.assert_close(*values, rtol=0, atol=1e-9)
    sum(values).backward()
    torch.testing.assert_close(raw[0].grad, raw[1].grad, rtol=0, atol=1e-9)


@pytest.mark.parametrize("backend", BACKENDS)
def test_anchors_without_anyone_are_left_out(backend):
    """One view: rows alone in their class have no positive under SupCon, and stay in the others' denominators."""
    z, _ = random_rows(images=5, views=1)
    labels = torch.tensor([0, 0, 1, 2, 2])
    loss = ContrastiveLoss("supcon", pos="class", num_views=1, temperature=0.5, backend=backend)
    value, stats = loss.with_stats(z, labels)
    assert stats["anchors"].tolist() == [1, 1, 0, 1, 1]
    x = z @ z.T / 0.5
    N = x.masked_fill(torch.eye(5, dtype=torch.bool), -torch.inf).logsumexp(1)
    expected = (N[0] - x[0, 1] + N[1] - x[1, 0] + N[3] - x[3, 4] + N[4] - x[4, 3]) / 4
    torch.testing.assert_close(value, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("flags", [{"den": "class"}, {"pos": "class", "den": "class", "own": True}])
def test_one_class_names_the_loss_and_the_remedy(backend, flags):
    z, labels = random_rows()
    loss = ContrastiveLoss("nscl", backend=backend, **flags)
    with pytest.raises(UserError, match=r"nscl: no row .* another class .*--sampling\.per-class"):
        loss(z, torch.zeros_like(labels))


@pytest.mark.parametrize("backend", BACKENDS)
def test_no_positive_names_the_loss_and_the_remedy(backend):
    z, _ = random_rows(images=4, views=1)
    loss = ContrastiveLoss("supcon", pos="class", num_views=1, backend=backend)
    with pytest.raises(UserError, match=r"supcon: no row .*--data\.num-views 2"):
        loss(z, torch.arange(4))


def test_missing_labels_name_the_loss_and_the_remedy():
    z, _ = random_rows()
    assert ContrastiveLoss()(z).isfinite() and ContrastiveLoss(den="image")(z, None).isfinite()
    with pytest.raises(ValueError, match="nscl needs the label of each row: give labels, or use simclr"):
        ContrastiveLoss("nscl", den="class")(z)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", ["supcon_out", "nscl_paper", "hscl_pairs_beta1", "supcon_in"])
def test_rows_of_unknown_class_are_as_if_absent(backend, name):
    z, labels = random_rows(images=12)
    keep = (torch.arange(12) % 4 != 0).repeat(2)
    loss = ContrastiveLoss(temperature=0.3, backend=backend, **PAIRS[name])
    noisy = torch.where(keep[:, None], z, torch.nan)
    value, gradient = value_and_gradient(loss, noisy, torch.where(keep, labels, -1))
    expected, slope = value_and_gradient(loss, z[keep], labels[keep])
    torch.testing.assert_close(value, expected, rtol=0, atol=1e-13)
    torch.testing.assert_close(gradient[keep], slope, rtol=0, atol=1e-13)
    assert (gradient[~keep] == 0).all()


def test_unknown_classes_change_nothing_where_labels_are_not_asked_for():
    z, labels = random_rows()
    loss = ContrastiveLoss("dcl", den="image")
    assert torch.equal(loss(z, labels), loss(z, torch.full_like(labels, -1)))


def test_half_precision_rows_are_computed_in_float32():
    z, labels = random_rows()
    loss = ContrastiveLoss(den="class")
    half = z.to(torch.bfloat16).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        value = loss(half, labels)
    value.backward()
    assert value.dtype == torch.float32 and half.grad.dtype == torch.bfloat16
    torch.testing.assert_close(value, loss(half.detach().float(), labels), rtol=0, atol=1e-6)


def test_small_temperatures_do_not_overflow():
    z, labels = random_rows(collapsed=True)
    for name, flags in PAIRS.items():
        value, gradient = value_and_gradient(ContrastiveLoss(temperature=1e-3, **flags), z.float(), labels)
        assert value.isfinite() and gradient.isfinite().all(), name


def test_memory_of_the_closed_form_does_not_grow_with_the_square(monkeypatch):
    """No tensor that autograd keeps is larger than the rows."""
    z, labels = random_rows(images=300)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: (kept.append(t.numel()), t)[1], lambda t: t):
        ContrastiveLoss(pos="class")(z.requires_grad_(), labels).backward()
    assert max(kept) <= z.numel()


def test_double_backward_is_refused():
    z, labels = random_rows()
    [gradient] = torch.autograd.grad(ContrastiveLoss()(z.requires_grad_(), labels).square(), z, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"temperature": 0.0}, "demo: the temperature must be positive"),
        ({"beta": -1.0}, "demo: beta must be 0 or more"),
        ({"own": True, "reduce": "in"}, "demo: own and reduce"),
        ({"pos": "other"}, "demo: unknown pos"),
        ({"den": "other"}, "demo: unknown den"),
        ({"reduce": "other"}, "demo: unknown reduce"),
        ({"backend": "other"}, "demo: unknown backend"),
        ({"num_views": 1}, "demo compares views of an image: it needs --data.num-views 2"),
    ],
)
def test_settings_that_cannot_be(settings, message):
    with pytest.raises(ValueError, match=message):
        ContrastiveLoss("demo", **settings)


@pytest.mark.parametrize(
    ("z", "labels", "message"),
    [
        (torch.zeros(4), None, "z must be"),
        (torch.zeros(4, 2, dtype=torch.int64), None, "z must be"),
        (torch.zeros(5, 2), torch.zeros(5, dtype=torch.int64), "5 rows are not 2 views"),
        (torch.zeros(4, 2), torch.zeros(3, dtype=torch.int64), "labels must be"),
        (torch.zeros(4, 2), torch.zeros(4), "labels must be"),
    ],
)
def test_inputs_that_cannot_be(z, labels, message):
    with pytest.raises(ValueError, match=message):
        ContrastiveLoss(pos="class" if labels is not None else "aug")(z, labels)


def test_triton_says_what_it_cannot_take():
    z, labels = random_rows()
    for rows in (z, torch.zeros(22, 600)):
        with pytest.raises(ValueError, match="takes float32 or less and 512 columns at most"):
            ContrastiveLoss(backend="triton")(rows, labels)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_triton_says_that_it_needs_a_gpu(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET")
    with pytest.raises(ValueError, match="needs rows on a CUDA device"):
        ContrastiveLoss(backend="triton")(random_rows()[0].float())
    assert ContrastiveLoss(backend="auto")(random_rows()[0].float()).isfinite()


def test_triton_in_the_interpreter_gives_the_same_loss():
    """Through the module: rows rounded to float16, labels, chosen backend."""
    pytest.importorskip("triton", reason="triton is not on this system")
    z, labels = random_rows()
    expected = value_and_gradient(ContrastiveLoss(pos="class"), z, labels)
    for ours, exact in zip(
        value_and_gradient(ContrastiveLoss(pos="class", backend="triton"), z.float(), labels), expected, strict=True
    ):
        assert (ours - exact).abs().max() < 3e-3 * exact.abs().max()
