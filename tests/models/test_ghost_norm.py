"""Ghost batch norm against torch's own batch norm, group by group."""

import copy

import pytest
import torch

from fastvarcon.config import ModelConfig
from fastvarcon.models import ContrastiveModel
from fastvarcon.models.ghost_norm import use_ghost_groups

VIEWS, IMAGES, GROUP = 2, 6, 2


def network() -> ContrastiveModel:
    torch.manual_seed(0)
    return ContrastiveModel(ModelConfig("resnet18", width=0.125, small_images=True, head_dim=8)).double()


def test_groups_are_what_processes_hold():
    """Three groups of two images against three networks that see two images each, as three processes would."""
    whole = use_ghost_groups(network(), GROUP, VIEWS)
    views = torch.randn(VIEWS * IMAGES, 3, 8, 8, dtype=torch.float64)
    z = whole(views)
    weight = torch.randn_like(z)
    (z * weight).sum().backward()
    parts = [network() for _ in range(IMAGES // GROUP)]
    for k, part in enumerate(parts):
        rows = torch.cat([torch.arange(k * GROUP, (k + 1) * GROUP) + view * IMAGES for view in range(VIEWS)])
        z_k = part(views[rows])
        torch.testing.assert_close(z_k, z[rows], rtol=1e-10, atol=1e-12)
        (z_k * weight[rows]).sum().backward()
    for (name, parameter), *theirs in zip(whole.named_parameters(), *(p.parameters() for p in parts), strict=True):
        torch.testing.assert_close(parameter.grad, sum(p.grad for p in theirs), rtol=1e-8, atol=1e-10, msg=name)
    for (name, buffer), *theirs in zip(whole.named_buffers(), *(p.buffers() for p in parts), strict=True):
        mean = torch.stack(theirs).double().mean(0).to(buffer.dtype)
        torch.testing.assert_close(buffer, mean, rtol=1e-10, atol=1e-12, msg=name)


def test_one_group_is_plain_batch_norm_and_names_stay():
    plain, ghost = network(), use_ghost_groups(network(), IMAGES, VIEWS)
    views = torch.randn(VIEWS * IMAGES, 3, 8, 8, dtype=torch.float64)
    torch.testing.assert_close(ghost(views), plain(views), rtol=1e-12, atol=1e-14)
    assert list(ghost.state_dict()) == list(plain.state_dict())


def test_evaluation_uses_running_statistics_and_any_batch():
    ghost = use_ghost_groups(network(), GROUP, VIEWS)
    plain = network()
    plain.load_state_dict(ghost.state_dict())
    images = torch.randn(5, 3, 8, 8, dtype=torch.float64)
    assert torch.equal(ghost.encoder.eval()(images), plain.encoder.eval()(images))


@pytest.mark.parametrize("num_views", [1, 3])
def test_rows_come_back_in_their_order(num_views):
    ghost = use_ghost_groups(torch.nn.Sequential(torch.nn.Identity()), GROUP, num_views)
    rows = torch.randn(num_views * IMAGES, 3, 2, 2)
    assert torch.equal(ghost(rows), rows) and torch.equal(copy.deepcopy(ghost)(rows), rows)
