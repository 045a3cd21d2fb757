"""Labels of every type and size, in every registered loss."""

import typing

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from fastvarcon.config import LossConfig, LossName
from fastvarcon.losses import build_loss
from fastvarcon.losses.base import LABEL_TYPES
from fastvarcon.losses.monitor import NsclMonitor
from fastvarcon.losses.pairs import number_classes
from fastvarcon.losses.varcon import varcon_loss
from fastvarcon.losses.varcon_batch import compact

NAMES = typing.get_args(LossName)
BY_NUMBER = ("varcon", "clop", "cross_entropy")  # they keep something per class, so a label is an index
CLASSES, IMAGES, DIM = 3, 8, 5
FAR = torch.tensor([0, 2**32, 2**33])
"""The same number modulo 2^32."""


@pytest.fixture(scope="module")
def rows():
    """z [16, 5] of two views, and labels of three classes and one unknown image."""
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(2 * IMAGES, DIM, generator=generator, dtype=torch.float64)
    return F.normalize(z, dim=1), torch.tensor([0, 1, 2, 1, 0, 2, 2, 1]).repeat(2)


def value_and_gradient(name, z, labels):
    loss = build_loss(LossConfig(name), z.shape[1] if name == "cross_entropy" else CLASSES, dim=DIM)
    z = z.clone().requires_grad_()
    value = loss(z, labels)
    value.backward()
    return value.item(), z.grad


@pytest.mark.parametrize("dtype", LABEL_TYPES)
@pytest.mark.parametrize("name", NAMES)
def test_every_integer_type_gives_the_loss_of_int64(rows, name, dtype):
    z, labels = rows
    expected, expected_gradient = value_and_gradient(name, z, labels)
    value, gradient = value_and_gradient(name, z, labels.to(dtype))
    assert value == expected and torch.equal(gradient, expected_gradient)


@pytest.mark.parametrize("labels", [torch.ones(2 * IMAGES, dtype=torch.bool), torch.zeros(2 * IMAGES), torch.zeros(3)])
@pytest.mark.parametrize("name", [name for name in NAMES if LossConfig(name).needs_labels or name == "clop"])
def test_other_types_and_shapes_are_refused_with_a_remedy(rows, name, labels):
    with pytest.raises(ValueError, match=r"labels must be \[16\] integers.*labels\.to\(torch\.int64\)"):
        value_and_gradient(name, rows[0], labels)


@pytest.mark.parametrize("name", NAMES)
def test_labels_that_are_equal_modulo_2_to_the_32_are_different_classes(rows, name):
    z, labels = rows
    if name in BY_NUMBER:
        with pytest.raises(ValueError, match="label 8589934592 is outside the"):
            value_and_gradient(name, z, FAR[labels])
        return
    expected, expected_gradient = value_and_gradient(name, z, labels)
    value, gradient = value_and_gradient(name, z, FAR[labels])
    assert value == expected and torch.equal(gradient, expected_gradient)


@pytest.mark.parametrize("low", [0, -5, 2**40, -(2**62)])
def test_numbers_of_classes_against_numpy(low):
    labels = torch.randint(0, 7, (100,), generator=torch.Generator().manual_seed(1)) * 2**32 + low
    known = labels[labels >= 0]
    found = number_classes(labels)
    assert (found[labels < 0] == -1).all() and found.dtype == torch.int32
    names, ranks = np.unique(known.numpy(), return_inverse=True)
    first = found[labels >= 0].numpy()
    assert len(names) == len(np.unique(first)) and np.array_equal(first - (first.min() if len(first) else 0), ranks)


def test_varcon_does_not_take_a_distant_label_for_a_class(rows):
    """What a GPU's kernels would read as 32 bits; negative ones are ignored, however far down."""
    z, labels = rows
    ignored = torch.where(labels == 2, -1, labels)
    expected = varcon_loss(z, ignored, CLASSES)
    assert torch.equal(varcon_loss(z, torch.where(labels == 2, -(2**32), labels), CLASSES), expected)
    beyond = torch.tensor([4, 90, 100, 4, -1])  # 100 is one past the end: a label that no class has
    numbers, classes = compact(beyond, 100, 3, None)
    assert numbers.tolist() == [0, 1, 3, 0, -1] and classes == 3


def test_monitor_takes_every_integer_type(rows):
    z, labels = rows
    expected = NsclMonitor(CLASSES)(z, labels)
    for dtype in LABEL_TYPES:
        assert NsclMonitor(CLASSES)(z, labels.to(dtype)) == expected
