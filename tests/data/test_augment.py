"""The table against torchvision's own samplers, by statistical tests on fixed seeds."""

import numpy as np
import pytest
import torch
from scipy import stats
from torchvision.transforms import v2

from fastvarcon.data.augment import POLICIES, ViewTable, eval_params, view_params
from fastvarcon.errors import UserError

N = 4000


def table(policy: str, height: int = 300, width: int = 400, seed: int = 0, epoch: int = 0, view: int = 0) -> ViewTable:
    return view_params(policy, seed, epoch, np.arange(N), view, heights=np.full(N, height), widths=np.full(N, width))


@pytest.mark.parametrize(("height", "width"), [(300, 400), (40, 400), (400, 30)])
def test_crops_are_distributed_as_torchvisions(height, width):
    """The narrow images make the ten tries miss and the fallback serve."""
    torch.manual_seed(0)
    image = torch.empty(3, height, width)
    policy = POLICIES["simaugment"]
    theirs = [
        v2.RandomResizedCrop.make_params(v2.RandomResizedCrop(8, policy.scale, policy.ratio), [image]) for _ in range(N)
    ]
    ours = table("simaugment", height, width).box.numpy()
    for column, name in enumerate(("top", "left", "height", "width")):
        reference = np.array([params[name] for params in theirs], dtype=np.float64)
        assert stats.ks_2samp(ours[:, column], reference).pvalue > 1e-3, name


def test_boxes_are_whole_pixels_inside_the_image():
    box = table("simclr", 33, 71).box
    assert (box == box.round()).all() and (box[:, :2] >= 0).all() and (box[:, 2:] >= 1).all()
    assert (box[:, 0] + box[:, 2] <= 33).all() and (box[:, 1] + box[:, 3] <= 71).all()


def test_colour_parameters_follow_the_policy():
    """simaugment: jitter .4/.4/.4/.1 applied to 80 % of the views, grey 20 %, flip 50 %."""
    views = table("simaugment")
    jittered = views.brightness != 1
    for share, expected in ((jittered, 0.8), (views.gray, 0.2), (views.flip, 0.5)):
        assert stats.binomtest(int(share.sum()), N, expected).pvalue > 1e-3
    for factor, low, high in (
        (views.brightness, 0.6, 1.4),
        (views.contrast, 0.6, 1.4),
        (views.saturation, 0.6, 1.4),
        (views.hue, -0.1, 0.1),
    ):
        values = factor[jittered].numpy()
        assert stats.kstest(values, "uniform", (low, high - low)).pvalue > 1e-3
        assert (factor[~jittered] == (0.0 if low < 0 else 1.0)).all()
    orders = np.unique(views.order.numpy(), axis=0, return_counts=True)
    assert len(orders[0]) == 24 and stats.chisquare(orders[1]).pvalue > 1e-3
    assert (views.blur_sigma == 0).all() and (views.solarize > 1).all()


def test_draws_are_independent_between_quantities_and_views():
    first, second = table("simaugment"), table("simaugment", view=1)
    pairs = [(first.box[:, 0], second.box[:, 0]), (first.brightness, first.contrast), (first.box[:, 2], first.hue)]
    assert all(abs(np.corrcoef(a.numpy(), b.numpy())[0, 1]) < 0.06 for a, b in pairs)


def test_a_row_depends_on_nothing_but_its_own_id():
    whole = table("simclr", seed=5, epoch=3, view=1)
    ids = np.array([17, 3, 999])
    some = view_params("simclr", 5, 3, ids, 1, heights=np.full(3, 300), widths=np.full(3, 400))
    for name, column in vars(some).items():
        assert torch.equal(column, getattr(whole, name)[torch.from_numpy(ids)]), name
    for change in ({"seed": 6}, {"epoch": 4}, {"view": 0}):
        assert not torch.equal(table("simclr", **{"seed": 5, "epoch": 3, "view": 1, **change}).box, whole.box), change


def test_large_ids_and_seeds_are_distinct():
    sizes = {"heights": np.full(3, 300), "widths": np.full(3, 400)}
    rows = view_params("simclr", 2**40, 0, np.array([1, 2**33 + 1, 2**32 + 1]), 0, **sizes).box
    assert len({tuple(row) for row in rows.tolist()}) == 3


def test_policies_share_their_crops():
    assert torch.equal(table("simaugment").box, table("crop-flip").box)


def test_eval_box_maps_resize_then_crop():
    """300 x 400 resized to 150 x 200, centre 100 x 100: corner (25, 50) of the resized, (50, 100) of the original."""
    box = eval_params(np.array([300]), np.array([400]), resize=150, size=100).box
    assert box.tolist() == [[50, 100, 200, 200]]


def test_unknown_policy_lists_the_known_ones():
    with pytest.raises(UserError, match="simaugment, simclr"):
        table("sim-augment")
