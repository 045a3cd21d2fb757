"""SSEM, DHEL, KCL, CLOP, cross-entropy and the registry, in one process."""

import itertools

import pytest
import torch
import torch.nn.functional as F

from fastvarcon.config import LossConfig
from fastvarcon.errors import UserError
from fastvarcon.losses import ClopLoss, ContrastiveLoss, CrossEntropyLoss, DhelLoss, KclLoss, SsemLoss, build_loss
from fastvarcon.losses.prototypes import orthonormal_prototypes

BACKENDS = ("reference", "closed")
PAIR_LOSSES = ("simclr", "dcl", "nscl", "supcon", "sincere", "hscl", "ssem", "dhel", "kcl")


def rows(images=9, views=2, dim=6, classes=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(images) % classes
    z = F.normalize(torch.randn(views * images, dim, generator=generator, dtype=torch.float64), dim=1)
    return z.requires_grad_(), labels.repeat(views)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("tau", [0.5, 0.1])
@pytest.mark.parametrize(("include_self", "name"), [(True, "selfincluded"), (False, "noself")])
def test_golden_ssem(golden, golden_rows, backend, tau, include_self, name):
    loss = SsemLoss(0.5, temperature=tau, include_self=include_self, backend=backend)
    assert loss(*golden_rows).item() == pytest.approx(golden[str(tau)][f"supcl_ssem_alpha.5_{name}"], abs=1e-10)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("tau", [1.0, 0.5, 0.1])
def test_golden_dhel(golden, golden_rows, backend, tau):
    z, labels = golden_rows
    loss = DhelLoss(temperature=tau, backend=backend)
    assert loss(z, labels).item() == pytest.approx(golden[str(tau)]["dhel_both_views"], abs=1e-10)
    logs, others = loss._log_sums(loss._views(z))
    first_only = (logs[:4] - (z[:4] * z[4:]).sum(1) / tau).mean()
    assert others == 3 and first_only.item() == pytest.approx(golden[str(tau)]["dhel_anchor_only"], abs=1e-10)


@pytest.mark.parametrize("backend", BACKENDS)
def test_golden_kcl(golden, golden_rows, backend):
    assert KclLoss(backend=backend)(*golden_rows).item() == pytest.approx(golden["kcl_gaussian_t2_gamma16"], abs=1e-10)


def test_kcl_is_its_definition_for_three_views():
    z, _ = rows(views=3)
    views, t, gamma = z.unflatten(0, (3, -1)), 1.5, 4.0

    def mean_kernel(distances):
        return (-t * torch.stack(distances).square()).exp().mean()

    aligned = mean_kernel([torch.stack([(u - v).norm(dim=1) for u, v in itertools.combinations(views, 2)])])
    spread = sum(mean_kernel([(v[i] - v[j]).norm() for i, j in itertools.combinations(range(9), 2)]) for v in views)
    expected = -2 * aligned + gamma * 2 * spread / 3
    torch.testing.assert_close(KclLoss(num_views=3, t=t, gamma=gamma)(z), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("include_self", [True, False])
def test_ssem_is_its_definition(alpha, include_self):
    z, labels = rows(views=3)
    image, x = torch.arange(9).repeat(3), z @ z.T / 0.3
    eye = torch.eye(27, dtype=torch.bool)
    same_image, same_class = image[:, None] == image, labels[:, None] == labels
    l = x.masked_fill(torch.zeros_like(eye) if include_self else eye, -torch.inf).logsumexp(1, keepdim=True) - x
    own = l[same_image if include_self else same_image & ~eye].mean()
    expected = alpha * own + (1 - alpha) * l[same_class & ~same_image].mean()
    gradients = torch.autograd.grad(expected, z, retain_graph=True)
    loss = SsemLoss(alpha, num_views=3, temperature=0.3, include_self=include_self)(z, labels)
    torch.testing.assert_close(loss, expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(torch.autograd.grad(loss, z), gradients, rtol=0, atol=1e-12)


def test_ssem_without_two_images_of_a_class():
    z, _ = rows()
    labels = torch.arange(9).repeat(2)
    with pytest.raises(UserError, match=r"ssem: no class has two images .*--sampling\.per-class 2"):
        SsemLoss(0.5)(z, labels)
    torch.testing.assert_close(SsemLoss(1.0)(z, labels), ContrastiveLoss()(z), rtol=0, atol=1e-12)


@pytest.mark.parametrize("loss", [SsemLoss(0.4), DhelLoss(), KclLoss()])
def test_gradcheck(loss):
    z, labels = rows(images=4, dim=3, classes=2)
    sphere = lambda x: loss(F.normalize(x, dim=1), labels)  # noqa: E731
    assert torch.autograd.gradcheck(sphere, (2 * z.detach()).requires_grad_())


@pytest.mark.parametrize("name", PAIR_LOSSES)
def test_backends_agree(name):
    z, labels = rows()
    losses = [build_loss(LossConfig(name, backend=backend), 3)(z, labels) for backend in BACKENDS]
    torch.testing.assert_close(*losses, rtol=0, atol=1e-12)
    torch.testing.assert_close(*(torch.autograd.grad(loss, z)[0] for loss in losses), rtol=0, atol=1e-11)


@pytest.mark.parametrize("loss", [DhelLoss(), KclLoss()])
def test_a_batch_of_one_image_names_the_loss_and_the_remedy(loss):
    z, _ = rows(images=1)
    with pytest.raises(UserError, match=rf"{loss.name}: the batch has no second image: use a larger --train"):
        loss(z)


@pytest.mark.parametrize("make", [SsemLoss, DhelLoss, KclLoss])
def test_losses_of_views_need_two(make):
    with pytest.raises(ValueError, match=r"compares views of an image: it needs --data\.num-views 2"):
        make(num_views=1)


def test_clop_adds_its_term():
    z, labels = rows()
    base = ContrastiveLoss()
    loss, stats = ClopLoss(base, 3, 6, weight=0.7).with_stats(z, labels)
    p = orthonormal_prototypes(3, 6)
    torch.testing.assert_close(loss, base(z) + 0.7 * (1 - (z * p[labels]).sum(1)).mean(), rtol=0, atol=1e-12)
    assert set(stats) == {"anchors", "prototype_cosine"}
    some = torch.where(torch.arange(18) % 9 < 4, labels, -1)
    half, stats = ClopLoss(base, 3, 6).with_stats(z, some)
    known = some >= 0
    term = (1 - (z * p[some])[known].sum(1)).mean()
    torch.testing.assert_close(half, base(z) + term, rtol=0, atol=1e-12)
    assert (stats["prototype_cosine"][~known] == 0).all()


def test_prototypes_are_orthonormal_and_always_the_same():
    p = orthonormal_prototypes(5, 9)
    torch.testing.assert_close(p @ p.T, torch.eye(5, dtype=p.dtype), rtol=0, atol=1e-12)
    assert torch.equal(p, orthonormal_prototypes(5, 9)) and "prototypes" not in ClopLoss(None, 5, 9).state_dict()
    torch.testing.assert_close(orthonormal_prototypes(5, 5).det().abs(), torch.ones((), dtype=p.dtype))


def test_clop_names_what_does_not_fit():
    z, labels = rows()
    with pytest.raises(
        UserError, match=r"clop: 7 orthogonal prototypes do not fit into 6 columns: use --model.head-dim 7"
    ):
        build_loss(LossConfig("clop"), 7, dim=6)
    clop = build_loss(LossConfig("clop"), 3, dim=6)
    with pytest.raises(ValueError, match="clop needs labels"):
        clop(z, None)
    with pytest.raises(UserError, match="clop: no row of the batch has a label"):
        clop(z, torch.full_like(labels, -1))


def test_cross_entropy_is_torchs():
    logits, labels = torch.randn(10, 4, dtype=torch.float64, requires_grad=True), torch.arange(10) % 4
    labels[3] = -1
    loss, stats = CrossEntropyLoss(label_smoothing=0.1).with_stats(logits, labels)
    expected = F.cross_entropy(logits, labels, ignore_index=-1, label_smoothing=0.1)
    torch.testing.assert_close(loss, expected, rtol=0, atol=1e-12)
    assert stats["batch_top1"].tolist() == ((logits.argmax(1) == labels) & (labels >= 0)).double().tolist()
    with pytest.raises(UserError, match="cross_entropy: no row of the batch has a label"):
        CrossEntropyLoss()(logits, torch.full_like(labels, -1))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SsemLoss(1.5), "ssem: alpha must lie between 0 and 1"),
        (lambda: KclLoss(t=0.0), "kcl: t must be positive"),
        (lambda: DhelLoss(temperature=0.0), "dhel: the temperature must be positive"),
        (lambda: ClopLoss(None, 2, 2, weight=-1.0), "clop: the weight must be 0 or more"),
        (lambda: CrossEntropyLoss(label_smoothing=1.0), "cross_entropy: label smoothing"),
        (lambda: build_loss(LossConfig("guess"), 3), "unknown loss 'guess'"),
    ],
)
def test_settings_that_cannot_be(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_the_registry_passes_the_flags_on():
    z, labels = rows()

    def value(**flags) -> float:
        return build_loss(LossConfig(temperature=0.5, **flags), 3, num_views=2, dim=6)(z, labels).item()

    def expected(**flags) -> float:
        return ContrastiveLoss(temperature=0.5, **flags)(z, labels).item()

    others = {"pos": "class", "den": "class", "own": True}
    assert value(name="nscl", include_own_positive=True) == expected(den="class", own=True)
    assert value(name="supcon", supcon_reduce="in") == expected(pos="class", reduce="in")
    assert value(name="hscl", beta=2.0) == expected(**others, reduce="pairs", beta=2.0)
    assert value(name="ssem", alpha=0.2) == SsemLoss(0.2, temperature=0.5)(z, labels).item()
    assert value(name="kcl", kcl_t=1.0, kcl_gamma=3.0) == KclLoss(t=1.0, gamma=3.0)(z).item()
    base = build_loss(LossConfig("varcon"), 3)
    clop = {"name": "clop", "clop_base": "varcon", "clop_weight": 2.0}
    assert value(**clop) == ClopLoss(base, 3, 6, weight=2.0)(z, labels).item()
    smooth = build_loss(LossConfig("cross_entropy", label_smoothing=0.2), 3)
    assert smooth.label_smoothing == 0.2
