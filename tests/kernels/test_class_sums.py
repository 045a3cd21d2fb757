"""Class sums against float64: on a GPU if there is one, else in Triton's interpreter."""

import pytest
import torch
import torch.nn.functional as F

from fastvarcon.kernels.class_sums import METHODS, class_sums

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def rows(n: int, dim: int, classes: int, dtype=torch.float32) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(n)
    z = F.normalize(torch.randn(n, dim, generator=generator), dim=1).to(dtype)
    labels = torch.randint(-1, classes, (n,), generator=generator)
    z[labels < 0] = torch.nan  # ignored rows may hold anything
    return z.to(DEVICE), labels.to(DEVICE)


def assert_sums(z, labels, classes, method):
    sums, counts = class_sums(z, labels, classes, method)
    known = labels >= 0
    exact = torch.zeros(classes, z.shape[1], dtype=torch.float64, device=z.device)
    exact.index_add_(0, labels[known], z[known].double())
    assert torch.equal(counts.sum(0), torch.bincount(labels[known], minlength=classes))
    largest = counts.sum(0).max().clamp(min=1)
    assert (sums.double().sum(0) - exact).abs().max() <= largest * 2**-23


@pytest.mark.parametrize("method", METHODS[1:])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize(
    ("n", "dim", "classes"),
    [(0, 5, 3), (1, 16, 1), (300, 33, 7), (513, 130, 70), (100, 20, 300), (300, 16, 2)],
)
def test_sums_and_counts(method, dtype, n, dim, classes):
    assert_sums(*rows(n, dim, classes, dtype), classes, method)


@pytest.mark.parametrize("ends", [(0, 300), (64, 128), (63, 129), (100, 101), (130, 300)])
def test_classes_that_end_at_and_across_pieces(ends):
    """One class from row `ends[0]` to `ends[1]` of the sorted order, small ones around it, and ignored rows first."""
    z, _ = rows(300, 8, 1)
    z = torch.nan_to_num(z)
    labels = torch.arange(300, device=DEVICE) // 3 - 2
    labels[ends[0] : ends[1]] = labels[ends[0]]
    assert_sums(z, labels, 100, "sorted")


@pytest.mark.parametrize("method", METHODS)
def test_label_that_cannot_be_is_written_nowhere(method, monkeypatch):
    """On a GPU nobody has looked at the labels: the memory behind the sums must be left alone."""
    z, labels = rows(300, 8, 6)
    known = labels.clone()
    labels[::50], known[::50] = 7, -1
    behind, make = torch.full((1000,), 7.0, device=DEVICE), {"empty": torch.empty, "zeros": torch.zeros}

    def with_room(name, shape, **options):
        made = make[name](shape, **options)
        return behind[: made.numel()].view(shape).copy_(made) if shape[1:] == (6, 8) else made

    for name in make:
        monkeypatch.setattr(torch, name, lambda *shape, name=name, **options: with_room(name, *shape, **options))
    sums, _ = class_sums(torch.nan_to_num(z), labels, 6, method)
    monkeypatch.undo()
    assert (behind[sums.numel() :] == 7).all()
    torch.testing.assert_close(sums, class_sums(torch.nan_to_num(z), known, 6, method)[0])


def test_rows_of_any_stride_and_labels_of_any_integer():
    z, labels = rows(70, 9, 5)
    wide = torch.stack([z, z], dim=2)[:, :, 0]
    for method in ("onehot", "sorted"):
        assert_sums(wide, labels.to(torch.int32), 5, method)
        assert_sums(wide.T.contiguous().T, labels, 5, method)


@pytest.mark.gpu
@pytest.mark.parametrize("method", ["onehot", "sorted"])
@pytest.mark.parametrize(("n", "dim", "classes"), [(8192, 128, 1000), (65536, 512, 100), (20000, 256, 22000)])
def test_gpu_sums_are_repeatable_to_the_bit(method, n, dim, classes):
    z, labels = rows(n, dim, classes, torch.bfloat16)
    assert_sums(z, labels, classes, method)
    first, second = class_sums(z, labels, classes, method), class_sums(z, labels, classes, method)
    assert torch.equal(first[0], second[0]) and torch.equal(first[1], second[1])
