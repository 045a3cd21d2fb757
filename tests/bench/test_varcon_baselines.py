"""What VarCon is measured against computes VarCon."""

import pytest
import torch
import torch.nn.functional as F

from fastvarcon.bench import varcon_baselines as baselines
from fastvarcon.losses.varcon import varcon_loss

CLASSES = 11


def rows(n=37, dim=16, present=8, separation=1.0, dtype=torch.float64):
    """Unit rows around the mean of their class; classes 8, 9 and 10 are absent."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(present, (n,), generator=generator)
    means = torch.randn(present, dim, generator=generator, dtype=torch.float64)
    z = torch.randn(n, dim, generator=generator, dtype=torch.float64) + separation * means[labels]
    return F.normalize(z, dim=1).to(dtype).requires_grad_(), labels


def result(loss_rows, z):
    loss = loss_rows.mean()
    return loss, torch.autograd.grad(loss, z)[0]


def attention(attend):
    return lambda z, labels, classes: baselines.attention(z, labels, classes, attend)


FORMS = {
    "static_reference": baselines.static_reference,
    "flash": attention(baselines.flash),
    "flex": attention(baselines.flex),
}


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("separation", [0.0, 3.0])
@pytest.mark.parametrize("present", [1, 8])
@pytest.mark.parametrize("form", FORMS)
def test_value_and_gradient_are_those_of_the_reference(form, present, separation):
    z, labels = rows(present=present, separation=separation)
    expected = result(varcon_loss(z, labels, CLASSES, reduction="none", backend="reference"), z)
    torch.testing.assert_close(result(FORMS[form](z, labels, CLASSES), z), expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("form", ["flash", "flex"])
@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_half_precision_is_near(form):
    z, labels = rows(n=64, separation=1.0, dtype=torch.bfloat16)
    loss, dz = result(FORMS[form](z, labels, CLASSES), z)
    expected, gradient = baselines.truth(z, labels, CLASSES)
    assert dz.dtype == torch.bfloat16 and loss.dtype == torch.float32
    torch.testing.assert_close(loss.double(), expected, rtol=2e-3, atol=0)
    assert (dz.double() - gradient).norm() < 1e-2 * gradient.norm()


def test_truth_is_the_same_in_pieces(monkeypatch):
    z, labels = rows()
    expected = result(varcon_loss(z, labels, CLASSES, reduction="none", backend="reference"), z)
    monkeypatch.setattr(baselines, "TRUTH_ELEMENTS", 5 * CLASSES)
    torch.testing.assert_close(baselines.truth(z, labels, CLASSES), expected, rtol=1e-12, atol=1e-14)


@pytest.mark.gpu
@pytest.mark.parametrize("dim", [128, 512])
@pytest.mark.parametrize("attend", ["flash", "cudnn", "flex"])
def test_attention_kernels_of_a_gpu(attend, dim):
    if attend == "cudnn" and dim == 512:
        pytest.skip("cuDNN has no attention of this width")
    generator = torch.Generator(device="cuda").manual_seed(0)
    labels = torch.randint(300, (1000,), generator=generator, device="cuda")
    z = F.normalize(torch.randn(1000, dim, generator=generator, device="cuda"), dim=1).bfloat16().requires_grad_()
    form = attention(getattr(baselines, attend))
    loss, dz = result((torch.compile(form) if attend == "flex" else form)(z, labels, 310), z)
    expected, gradient = baselines.truth(z, labels, 310)
    torch.testing.assert_close(loss.double(), expected, rtol=2e-3, atol=0)
    assert (dz.double() - gradient).norm() < 1e-2 * gradient.norm()
