"""The table against torchvision's own samplers, by statistical tests on fixed seeds."""

import hashlib
from collections import Counter

import numpy as np
import pytest
import torch
from scipy import stats
from torchvision.transforms import v2

from fastvarcon.config import PolicyName
from fastvarcon.data import augment, draws, philox
from fastvarcon.data.augment import POLICIES, ViewTable, eval_params, view_params, view_table
from fastvarcon.data.auto_augment import AUTO_AUGMENT, as_arrays
from fastvarcon.errors import UserError
from fastvarcon.kernels.operations import OPERATIONS

N = 4000
JITTER = {"simaugment": (0.4, 0.4, 0.4, 0.1), "simclr": (0.8, 0.8, 0.8, 0.2), "nscl-cifar": (0.4, 0.4, 0.4, 0.1)}


def table(policy, height: int = 300, width: int = 400, seed: int = 0, epoch: int = 0, view: int = 0) -> ViewTable:
    return view_params(policy, seed, epoch, np.arange(N), view, heights=np.full(N, height), widths=np.full(N, width))


def same_distribution(ours: torch.Tensor, theirs: list) -> bool:
    return stats.ks_2samp(ours.numpy(), np.array(theirs, dtype=np.float64), method="asymp").pvalue > 1e-3


def same_shares(ours: Counter, theirs: Counter) -> bool:
    names = sorted(ours.keys() | theirs.keys())
    counts = [[counter[name] for name in names] for counter in (ours, theirs)]
    return stats.chi2_contingency(counts).pvalue > 1e-3


@pytest.mark.parametrize(("height", "width"), [(300, 400), (32, 32), (40, 400), (400, 30)])
@pytest.mark.parametrize("policy", ["simaugment", "nscl-cifar"])
def test_crops_are_distributed_as_torchvisions(policy, height, width):
    """The narrow images make the ten tries miss and the fallback serve."""
    torch.manual_seed(0)
    image = torch.empty(3, height, width)
    scale = (0.2, 1.0) if policy == "simaugment" else (0.08, 1.0)
    crop = v2.RandomResizedCrop(8, scale)
    theirs = [crop.make_params([image]) for _ in range(N)]
    ours = table(policy, height, width).box
    for column, name in enumerate(("top", "left", "height", "width")):
        assert same_distribution(ours[:, column], [params[name] for params in theirs]), name


def test_fallback_is_torchvisions():
    """Images so narrow that all ten tries miss show their central crop."""
    wide, high = (table("simaugment", *size).box.unique(dim=0).tolist() for size in ((4, 4000), (4000, 4)))
    crop = v2.RandomResizedCrop(8, (0.2, 1.0))
    for ours, size in ((wide, (4, 4000)), (high, (4000, 4))):
        params = crop.make_params([torch.empty(3, *size)])
        assert ours == [[params[name] for name in ("top", "left", "height", "width")]]


def test_boxes_are_whole_pixels_inside_the_image():
    box = table("simclr", 33, 71).box
    assert (box == box.round()).all() and (box[:, :2] >= 0).all() and (box[:, 2:] >= 1).all()
    assert (box[:, 0] + box[:, 2] <= 33).all() and (box[:, 1] + box[:, 3] <= 71).all()


@pytest.mark.parametrize("policy", JITTER)
def test_jitter_is_torchvisions(policy):
    """Its factors and their order against ColorJitter's own draws; applied to 80 % of the views."""
    torch.manual_seed(0)
    transform = v2.ColorJitter(*JITTER[policy])
    theirs = [transform.make_params([]) for _ in range(N)]
    ours = table(policy)
    jittered = ours.hue != 0
    assert stats.binomtest(int(jittered.sum()), N, 0.8).pvalue > 1e-3
    for name in ("brightness", "contrast", "saturation", "hue"):
        values = getattr(ours, name)
        assert same_distribution(values[jittered], [float(params[f"{name}_factor"]) for params in theirs]), name
        assert (values[~jittered] == (name != "hue")).all()
    orders = [Counter(map(tuple, rows)) for rows in (ours.order.tolist(), [p["fn_idx"].tolist() for p in theirs])]
    assert len(orders[0]) == 24 and same_shares(*orders)


@pytest.mark.parametrize(("policy", "flip", "gray", "blur"), [("simaugment", 0.5, 0.2, 0), ("simclr", 0.5, 0.2, 0.5)])
def test_switches(policy, flip, gray, blur):
    ours = table(policy)
    for share, expected in ((ours.flip, flip), (ours.gray, gray), (ours.blur_sigma > 0, blur)):
        assert stats.binomtest(int(share.sum()), N, expected).pvalue > 1e-3
    assert (ours.solarize > 1).all() and (ours.ops == 0).all()


def test_blur_sigma_is_torchvisions():
    torch.manual_seed(0)
    transform = v2.GaussianBlur(23, (0.1, 2.0))
    ours = table("simclr").blur_sigma
    assert same_distribution(ours[ours > 0], [transform.make_params([])["sigma"][0] for _ in range(N)])


def test_solarize_and_what_no_named_policy_has():
    """RandomSolarize(0.5, p=0.2) and switches of probability 0 and 1."""
    ours = table(augment.Policy(flip=1.0, gray=0.0, solarize=0.2, solarize_threshold=0.5))
    solarized = ours.solarize <= 1
    assert stats.binomtest(int(solarized.sum()), N, 0.2).pvalue > 1e-3
    assert (ours.solarize[solarized] == 0.5).all() and ours.flip.all() and not ours.gray.any()


def recorded(transform, count: int) -> list[list[tuple[str, float]]]:
    """The operations that an automatic augmentation of torchvision draws, without applying them."""
    drawn: list[list[tuple[str, float]]] = []

    def record(image, name, magnitude, **_):
        drawn[-1].append((name, round(magnitude, 4)))
        return image

    transform._apply_image_or_video_transform = record
    image = torch.zeros((3, 331, 331), dtype=torch.uint8)
    for _ in range(count):
        drawn.append([])
        transform(image)
    return drawn


def as_torchvision(name: str, magnitude: float) -> tuple[str, float]:
    """An operation of the table in torchvision's units, for a view of 331 pixels."""
    if name in ("Brightness", "Contrast", "Color", "Sharpness"):
        magnitude -= 1
    elif name == "Posterize":
        magnitude = np.log2(magnitude)
    elif name.startswith("Translate"):
        magnitude *= 331
    return name, round(float(magnitude), 4) + 0.0


@pytest.mark.parametrize(
    ("policy", "transform"),
    [("autoaugment", v2.AutoAugment), ("randaugment", v2.RandAugment), ("stacked-randaugment", v2.RandAugment)],
)
def test_operations_are_torchvisions(policy, transform):
    """Which operations, in which order, with which magnitudes and signs: chi-square over all of them."""
    torch.manual_seed(0)
    theirs = recorded(transform(), N)
    views = table(policy)
    ours = [
        [as_torchvision(OPERATIONS[op], value) for op, value in zip(ops, values, strict=True) if op]
        for ops, values in zip(views.ops.tolist(), views.magnitudes.tolist(), strict=True)
    ]
    theirs = [[step for step in steps if step[0] != "Identity"] for steps in theirs]
    assert {step for steps in ours for step in steps} == {step for steps in theirs for step in steps}
    assert same_shares(Counter(step for steps in ours for step in steps), Counter(s for steps in theirs for s in steps))
    names = [Counter(tuple(name for name, _ in steps) for steps in drawn) for drawn in (ours, theirs)]
    assert same_shares(*names)


def test_pairs_of_autoaugment_are_torchvisions():
    theirs = v2.AutoAugment()._policies
    assert [[step[:2] for step in pair] for pair in AUTO_AUGMENT] == [[step[:2] for step in pair] for pair in theirs]
    strengths = [[round(9 * step[2]) for step in pair] for pair in AUTO_AUGMENT]
    assert strengths == [[step[2] or 0 for step in pair] for pair in theirs]


def test_draws_are_independent_between_quantities_and_views():
    first, second = table("simaugment"), table("simaugment", view=1)
    pairs = [(first.box[:, 0], second.box[:, 0]), (first.brightness, first.contrast), (first.box[:, 2], first.hue)]
    assert all(abs(np.corrcoef(a.numpy(), b.numpy())[0, 1]) < 0.06 for a, b in pairs)


@pytest.mark.parametrize("policy", POLICIES)
def test_a_row_depends_on_nothing_but_its_own_id(policy):
    whole = table(policy, seed=5, epoch=3, view=1)
    ids = np.array([17, 3, 999])
    some = view_params(policy, 5, 3, ids, 1, heights=np.full(3, 300), widths=np.full(3, 400))
    for name, column in vars(some).items():
        assert torch.equal(column, getattr(whole, name)[torch.from_numpy(ids)]), name
    for change in ({"seed": 6}, {"epoch": 4}, {"view": 0}):
        assert not torch.equal(table(policy, **{"seed": 5, "epoch": 3, "view": 1, **change}).box, whole.box), change


def test_large_ids_and_seeds_are_distinct():
    sizes = {"heights": np.full(3, 300), "widths": np.full(3, 400)}
    rows = view_params("simclr", 2**40, 0, np.array([1, 2**33 + 1, 2**32 + 1]), 0, **sizes).box
    assert len({tuple(row) for row in rows.tolist()}) == 3


def test_policies_share_their_crops():
    assert torch.equal(table("simaugment").box, table("crop-flip").box)
    assert torch.equal(table("simclr").box, table("autoaugment").box)


def test_words_are_those_of_philox():
    """The generator of the draws against the vectorised one, which has the known answers of Random123."""
    counter = [0xFFFFFFF0, 7, 2**32 - 1, 12]
    for block in (0, 3, 15):
        words = philox.philox4x32(counter[0] + block, *counter[1:], 2**61 + 5)
        ours = draws._uniforms(tuple(map(np.uint64, counter)), block, np.uint64(2**61 + 5))
        assert list(ours) == philox.uniforms(words).tolist()


def test_exponential():
    x = np.linspace(-3, 3, 101)
    assert np.allclose([draws._exp(value) for value in x], np.exp(x), rtol=1e-9, atol=0)
    near = np.linspace(-0.3, 0.3, 101)
    assert np.allclose([draws._exp(value) for value in near], np.exp(near), rtol=1e-14, atol=0)


def test_tables_have_the_same_bits_everywhere():
    """Another hash on another machine or with another library would be a bug: the numbers of a run would differ."""
    rng = np.random.default_rng(0)
    heights, widths = rng.integers(1, 500, (2, 300))
    digest = hashlib.sha256()
    for policy in ("simaugment", "simclr", "nscl-cifar", "autoaugment", "stacked-randaugment", "crop"):
        drawn = view_params(policy, 2**40 + 7, 3, np.arange(300) * 977, 1, heights=heights, widths=widths)
        for name in sorted(vars(drawn)):
            digest.update(getattr(drawn, name).numpy().tobytes())
    assert digest.hexdigest() == "78d27007e463099247ac735e15a0d06738d52643ef10cb87121774b7c504b82b"


def test_eval_box_maps_resize_then_crop():
    """300 x 400 resized to 150 x 200, centre 100 x 100: corner (25, 50) of the resized, (50, 100) of the original."""
    box = eval_params(np.array([300]), np.array([400]), resize=150, size=100).box
    assert box.tolist() == [[50, 100, 200, 200]]


def test_table_of_all_views_by_name():
    ids, sizes = np.arange(3), {"heights": np.array([30, 40, 50]), "widths": np.array([50, 40, 30])}
    for name in (*POLICIES, "eval"):
        whole = view_table(name, 1, 2, ids, 2, **sizes, resize=20, size=16)
        views = [
            eval_params(**sizes, resize=20, size=16) if name == "eval" else view_params(name, 1, 2, ids, view, **sizes)
            for view in range(2)
        ]
        for column in vars(whole):
            assert torch.equal(getattr(whole, column), torch.cat([getattr(view, column) for view in views]))


def test_every_policy_has_a_flag():
    assert set(PolicyName.__args__) == {*POLICIES, "eval"}


def test_unknown_policy_lists_the_known_ones():
    with pytest.raises(UserError, match=r"simaugment, simclr, .*, eval"):
        table("sim-augment")


def test_empty_list_of_pairs_is_no_operation():
    assert [len(array) for array in as_arrays(())] == [0, 0, 0]
