"""Options of the VarCon loss beyond the paper's defaults, and what the closed form costs in memory."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from fastvarcon.losses import VarConLoss, build_loss, varcon_loss, varcon_stats

BACKENDS = ("reference", "closed")


def random_rows(n=24, dim=5, classes=6, seed=0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(n, dim, generator=generator, dtype=torch.float64)
    return F.normalize(rows, dim=1), torch.randint(classes, (n,), generator=generator)


def value_and_gradients(z, labels, classes, backend, **options):
    z, eps = z.clone().requires_grad_(), torch.tensor(0.1, dtype=z.dtype, requires_grad=True)
    rows = varcon_loss(z, labels, classes, tau1=0.3, eps=eps, backend=backend, reduction="none", **options)
    (rows * torch.linspace(0.5, 2, len(rows), dtype=rows.dtype)).sum().backward()
    return rows.detach(), z.grad, eps.grad


@pytest.mark.parametrize("terms", ["both", "kl", "nll"])
@pytest.mark.parametrize("leave_one_out", [False, True])
@pytest.mark.parametrize("detach_centroids", [False, True])
def test_closed_form_equals_the_equations(terms, leave_one_out, detach_centroids):
    z, labels = random_rows()
    labels[:3] = torch.tensor([-1, 7, 7])
    labels[3] = 8  # the only row of its class
    options = {"terms": terms, "leave_one_out": leave_one_out, "detach_centroids": detach_centroids}
    for one, other in zip(*(value_and_gradients(z, labels, 9, name, **options) for name in BACKENDS), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)


@pytest.mark.parametrize("backend", BACKENDS)
def test_terms_add_up(backend):
    z, labels = random_rows()
    both, kl, nll = (value_and_gradients(z, labels, 6, backend, terms=terms) for terms in ("both", "kl", "nll"))
    for whole, one, other in zip(both, kl, nll, strict=True):
        torch.testing.assert_close(whole, one + other, rtol=0, atol=1e-12)
    assert torch.equal(nll[0], varcon_stats(z, labels, 6, tau1=0.3, eps=0.1, backend=backend).nll) and nll[2] == 0


@pytest.mark.parametrize("leave_one_out", [False, True])
def test_gradcheck_by_rows_and_eps(leave_one_out):
    z, labels = random_rows(12, 4, 3)
    options = {"tau1": 0.5, "detach_centroids": False, "leave_one_out": leave_one_out}
    eps = torch.tensor(0.1, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, e: varcon_loss(x, labels, 3, eps=e, **options), (z.requires_grad_(), eps))


def test_leave_one_out_is_what_it_says():
    """Row 0 against centroids made by hand; the others keep row 0."""
    z, labels = random_rows()
    others = torch.arange(24) != 0
    with_it = F.normalize(torch.zeros(6, 5, dtype=z.dtype).index_add(0, labels, z), dim=1)
    without = F.normalize(torch.zeros(6, 5, dtype=z.dtype).index_add(0, labels[others], z[others]), dim=1)
    centroids = torch.where((torch.arange(6) == labels[0])[:, None], without, with_it)
    confidence = torch.softmax(z[0] @ centroids.T / 0.1, 0)[labels[0]]
    assert varcon_stats(z, labels, 6, leave_one_out=True).confidence[0].item() == pytest.approx(confidence.item())


def test_leave_one_out_takes_the_bias_out_of_the_confidence():
    """Random rows, two a class: confidence .44 where chance is .001: docs/maths/varcon.md#bias-of-the-own-centroid."""
    generator = torch.Generator().manual_seed(0)
    z = F.normalize(torch.randn(2000, 128, generator=generator), dim=1)
    labels = torch.arange(2000) % 1000
    assert varcon_stats(z, labels, 1000).confidence.mean().item() == pytest.approx(0.44, abs=0.01)
    assert varcon_stats(z, labels, 1000, leave_one_out=True).confidence.mean().item() < 0.002


def test_learnt_eps_stays_in_its_range_and_goes_downhill():
    z, labels = random_rows()
    module = VarConLoss(6, 0.3, 0.05, learn_eps=True).double()
    optimizer = torch.optim.SGD(module.parameters(), lr=1.0)
    first = module(z, labels)
    first.backward()
    assert module.eps.grad != 0
    with torch.no_grad():
        module.eps -= 1e-3 * module.eps.grad.sign()
    assert module(z, labels) < first
    for push, bound in ((-100.0, 0.0), (100.0, 0.24)):
        module.eps.grad = torch.tensor(-push, dtype=torch.float64)
        optimizer.step()
        assert module(z, labels) == varcon_loss(z, labels, 6, tau1=0.3, eps=bound) and module.eps.item() == bound


def test_two_passes_before_a_backward_of_learnt_eps():
    z, labels = random_rows()
    for backend in BACKENDS:
        module = VarConLoss(6, 0.3, 0.05, learn_eps=True, backend=backend).double()
        (module(z, labels) + module(-z, labels)).backward()
        assert module.eps.grad.isfinite()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("detach_centroids", [True, False])
def test_prototypes(backend, detach_centroids):
    """Two steps against running means made by hand; class 5 is only in the first, and takes part in the second."""
    module = VarConLoss(
        8, 0.3, 0.1, prototype_momentum=0.8, dim=5, backend=backend, detach_centroids=detach_centroids
    ).double()
    z, labels = random_rows()
    u = F.normalize(torch.zeros(8, 5, dtype=z.dtype).index_add(0, labels, z), dim=1)
    assert module(z, labels).item() == pytest.approx(varcon_loss(z, labels, 8, tau1=0.3, eps=0.1).item())
    torch.testing.assert_close(module.prototypes.mean, u)
    rows, names = random_rows(classes=5, seed=1)
    v = torch.where((names[:, None] == torch.arange(8)).any(0)[:, None], 0.8 * u, u)
    v += 0.2 * F.normalize(torch.zeros(8, 5, dtype=z.dtype).index_add(0, names, rows), dim=1)
    seen = [k for k in range(8) if (labels == k).any() or (names == k).any()]
    nll = F.cross_entropy(rows @ F.normalize(v[seen], dim=1).T / 0.3, torch.tensor([seen.index(k) for k in names]))
    rows.requires_grad_()
    loss, stats = module.with_stats(rows, names)
    loss.backward()
    assert stats["nll"].mean().item() == pytest.approx(nll.item()) and 5 in seen and 5 not in names
    torch.testing.assert_close(module.prototypes.mean, v)
    other = VarConLoss(8, 0.3, 0.1, prototype_momentum=0.8, dim=5).double()
    other.load_state_dict(module.state_dict())
    assert other.eval()(z, labels) == module.eval()(z, labels)
    torch.testing.assert_close(other.prototypes.mean, v)  # evaluation moves nothing


@pytest.mark.parametrize("backend", BACKENDS)
def test_more_classes_than_rows_are_numbered_anew(backend):
    z, labels = random_rows()
    labels[::5] = -1
    wide = torch.where(labels < 0, labels, labels * 4999 + 3)
    for detach in (True, False):
        dense = value_and_gradients(z, labels, 6, backend, detach_centroids=detach)
        sparse = value_and_gradients(z, wide, 30_000, backend, detach_centroids=detach)
        for one, other in zip(dense, sparse, strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"terms": "ce"}, "both, kl, nll"),
        ({"class_sums": "fast"}, "onehot, sorted, atomic"),
        ({"class_sums": "sorted", "backend": "closed"}, "of backend 'triton', not of 'closed'"),
        ({"learn_eps": True, "detach_target": True}, "eps learns through the target"),
        ({"learn_eps": True, "eps": 0.09}, "eps"),
        ({"prototype_momentum": 1.0, "dim": 4}, "prototype_momentum"),
        ({"prototype_momentum": 0.5}, "need dim"),
        ({"prototype_momentum": 0.5, "dim": 4, "leave_one_out": True}, "leave_one_out"),
    ],
)
def test_settings_that_cannot_be(options, message):
    with pytest.raises(ValueError, match=message):
        VarConLoss(6, **options)


def test_flags_reach_the_module():
    from fastvarcon.config import LossConfig

    config = LossConfig(terms="kl", learn_eps=True, prototype_momentum=0.5)
    module = build_loss(config, 6, dim=5, max_rows=24)
    assert module.settings.terms == "kl" and module.settings.max_rows == 24
    assert module.prototypes.momentum == 0.5 and [name for name, _ in module.named_parameters()] == ["eps"]
    assert build_loss(LossConfig(leave_one_out=True), 6, dim=5).settings.leave_one_out
    assert build_loss(LossConfig(), 6).prototypes is None


class LargestTensor(TorchDispatchMode):
    elements = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        for tensor in torch.utils._pytree.tree_leaves(out):
            if isinstance(tensor, torch.Tensor):
                self.elements = max(self.elements, tensor.untyped_storage().nbytes() // tensor.itemsize)
        return out


@pytest.mark.parametrize("detach_centroids", [True, False])
def test_closed_form_makes_no_tensor_of_rows_times_classes(detach_centroids):
    z, labels = random_rows(4000, 16, 1000)
    z = z.float().requires_grad_()
    with LargestTensor() as largest:
        varcon_loss(z, labels, 1000, backend="closed", detach_centroids=detach_centroids).backward()
    assert largest.elements <= 2**20 < 4000 * 1000 / 3


@given(seed=st.integers(0, 10_000), cut=st.integers(0, 24), detach_centroids=st.booleans())
@settings(max_examples=25, deadline=None)
def test_rows_only_meet_the_class_sums(seed, cut, detach_centroids):
    """A batch split in two parts that know the whole's sums: the parts' losses and gradients add up to the whole's."""
    from fastvarcon.losses.varcon_closed import rows_closed
    from fastvarcon.losses.varcon_settings import Settings

    z, labels = random_rows(24, 5, 6, seed=seed)
    settings = Settings(6, 0.3, None, "sum", detach_centroids, False, "closed")
    whole, parts = z.clone().requires_grad_(), z.clone().requires_grad_()
    expected = varcon_loss(whole, labels, 6, tau1=0.3, eps=0.1, reduction="sum", detach_centroids=detach_centroids)
    sums = torch.zeros(6, 5, dtype=z.dtype).index_add(0, labels, parts.detach() if detach_centroids else parts)
    present = torch.bincount(labels, minlength=6) > 0
    w = F.normalize(sums, dim=1)
    total = sum(
        rows_closed(parts[n], w, None, 0.1, labels[n], present, settings)[0].sum()
        for n in (slice(0, cut), slice(cut, 24))
    )
    expected.backward(), total.backward()
    assert total.item() == pytest.approx(expected.item(), rel=1e-12)
    torch.testing.assert_close(parts.grad, whole.grad, rtol=0, atol=1e-11)


@given(seed=st.integers(0, 10_000), terms=st.sampled_from(["both", "kl", "nll"]), leave_one_out=st.booleans())
@settings(max_examples=25, deadline=None)
def test_a_shift_of_all_logits_changes_nothing(seed, terms, leave_one_out):
    """Gradient rows sum to zero over the classes, seen through a direction that all centroids share."""
    generator = torch.Generator().manual_seed(seed)
    w = F.normalize(torch.randn(4, 6, generator=generator, dtype=torch.float64), dim=1)
    z, labels = random_rows(10, 6, 4, seed=seed)
    from fastvarcon.losses.varcon_closed import rows_closed
    from fastvarcon.losses.varcon_settings import Settings

    direction = torch.linalg.lstsq(w, torch.ones(4, 1, dtype=w.dtype)).solution[:, 0]  # w_k . direction = 1
    own = (z * w[labels]).sum(1).requires_grad_() if leave_one_out else None
    z.requires_grad_()
    present = torch.ones(4, dtype=torch.bool)
    rows, _ = rows_closed(z, w, own, 0.02, labels, present, Settings(4, 0.1, None, "sum", True, False, "closed", terms))
    rows.sum().backward()
    by_true = own.grad if leave_one_out else 0
    assert (z.grad @ direction + by_true).abs().max() < 1e-11
