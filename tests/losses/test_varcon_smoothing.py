"""The controls of VarCon: twice its NLL term, and that term with label smoothing, against torch's cross-entropy."""

import math

import pytest
import torch
import torch.nn.functional as F

from fastvarcon.config import Config, DataConfig, LossConfig
from fastvarcon.errors import UserError
from fastvarcon.losses import VarConLoss, build_loss, varcon_loss

BACKENDS = ("reference", "closed")
CLASSES, TAU1 = 7, 0.3


def batch(dtype=torch.float64):
    """Rows of six of the seven classes, the last two without a label."""
    generator = torch.Generator().manual_seed(0)
    z = F.normalize(torch.randn(26, 16, generator=generator, dtype=torch.float64), dim=1).to(dtype)
    labels = torch.arange(26) % 6
    labels[-2:] = -1
    return z.requires_grad_(), labels


def by_torch(z, labels, smoothing, detach_centroids=True):
    """2 x torch's cross-entropy of the labelled rows to the centroids of the classes present."""
    known, labels = z[labels >= 0], labels[labels >= 0]
    sums = torch.zeros(6, z.shape[1], dtype=z.dtype).index_add(0, labels, known)
    w = F.normalize(sums, dim=1)
    logits = known @ (w.detach() if detach_centroids else w).T / TAU1
    return 2 * F.cross_entropy(logits, labels, label_smoothing=smoothing)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("detach_centroids", [True, False])
@pytest.mark.parametrize("backend", BACKENDS)
def test_equals_torchs_cross_entropy(backend, detach_centroids, smoothing):
    z, labels = batch()
    options = {"terms": "2nll", "label_smoothing": smoothing, "detach_centroids": detach_centroids}
    loss = varcon_loss(z, labels, CLASSES, tau1=TAU1, eps=0.02, backend=backend, **options)
    expected = by_torch(z, labels, smoothing, detach_centroids)
    torch.testing.assert_close(loss, expected, rtol=0, atol=1e-12)
    gradients = [torch.autograd.grad(one, z)[0] for one in (loss, expected)]
    torch.testing.assert_close(*gradients, rtol=0, atol=1e-12)


def test_triton_equals_torchs_cross_entropy():
    pytest.importorskip("triton", reason="needs triton")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    z, labels = batch(torch.float32)
    z = z.detach().to(device).requires_grad_()
    options = {"terms": "2nll", "label_smoothing": 0.1, "backend": "triton"}
    loss = varcon_loss(z, labels.to(device), CLASSES, tau1=TAU1, **options)
    exact, _ = batch()
    expected = by_torch(exact, labels, 0.1)
    [gradient], [exact_gradient] = torch.autograd.grad(loss, z), torch.autograd.grad(expected, exact)
    torch.testing.assert_close(loss.double().cpu(), expected, rtol=1e-5, atol=0)
    torch.testing.assert_close(gradient.double().cpu(), exact_gradient, rtol=0, atol=1e-6)


@pytest.mark.parametrize("backend", BACKENDS)
def test_varcon_with_a_fixed_temperature_is_a_smoothed_cross_entropy(backend):
    """dL/dx = 2p - q - onehot, so at eps 0 the smoothed target is (q + onehot) / 2.

    docs/maths/varcon.md#twice-a-smoothed-cross-entropy
    """
    z, labels = batch()
    loss = varcon_loss(z, labels, CLASSES, tau1=TAU1, eps=0.0, backend=backend)
    r = 5 / (5 + math.exp(1 / TAU1))  # of six classes, q off the true one
    [expected] = torch.autograd.grad(by_torch(z, labels, r / 2 * 6 / 5), z)
    torch.testing.assert_close(torch.autograd.grad(loss, z)[0], expected, rtol=0, atol=1e-12)


def test_one_class_has_nothing_to_smooth():
    z, _ = batch()
    loss = varcon_loss(z, torch.zeros(26, dtype=torch.long), CLASSES, terms="2nll", label_smoothing=0.1)
    assert loss == 0 and not torch.autograd.grad(loss, z)[0].any()


def test_leave_one_out_counts_in_the_smoothing_too():
    z, labels = batch()
    plain, smooth = (
        varcon_loss(z, labels, CLASSES, terms="nll", leave_one_out=True, reduction="none", label_smoothing=s)
        for s in (0.0, 0.3)
    )
    w = F.normalize(torch.zeros(6, 16, dtype=z.dtype).index_add(0, labels[:24], z[:24].detach()), dim=1)
    own = F.normalize(z[:24].detach()[labels[:24] == labels[0]][1:].sum(0), dim=0)
    x = torch.cat([(z[0] @ own)[None], w[torch.arange(6) != labels[0]] @ z[0]]) / 0.1
    assert (smooth - plain)[0].item() == pytest.approx((0.3 * (x[0] - x.mean())).item(), abs=1e-12)


def test_built_by_name_and_refused_where_tau2_smooths():
    config = LossConfig(terms="2nll", label_smoothing=0.1, tau1=TAU1)
    z, labels = batch()
    assert build_loss(config, CLASSES)(z, labels).item() == pytest.approx(by_torch(z, labels, 0.1).item())
    with pytest.raises(ValueError, match="tau2 smooths q"):
        VarConLoss(CLASSES, label_smoothing=0.1)
    with pytest.raises(UserError, match=r"--loss\.label-smoothing goes with --loss\.terms nll or 2nll, not both"):
        Config(data=DataConfig(train="x"), loss=LossConfig(label_smoothing=0.1)).validate()
