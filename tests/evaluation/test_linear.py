"""The probe against scikit-learn's logistic regression, and its honesty."""

import json

import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from fastvarcon.errors import UserError
from fastvarcon.evaluation import linear, softmax
from fastvarcon.evaluation.linear import HELD_BACK, LR_GRID, linear_probe, summary
from fastvarcon.evaluation.splits import at_most, draw, stratified_split


@pytest.fixture(scope="module")
def pixels():
    data = load_digits()
    x, y = torch.tensor(data.data, dtype=torch.float32), torch.tensor(data.target)
    held_out = torch.arange(len(y)) % 5 == 0
    return x[~held_out], y[~held_out], x[held_out], y[held_out]


@pytest.mark.parametrize("scale", [1.0, 1e-4, 1e4])
def test_as_good_as_scikit_learn_whatever_the_scale(pixels, scale):
    train_x, train_y, test_x, test_y = pixels
    choice, curves, predict = linear_probe(train_x * scale, train_y, test_x * scale, test_y, 10, seeds=2)
    oracle = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000)).fit(train_x, train_y)
    figures = summary(curves)
    assert figures["top1"] >= oracle.score(test_x, test_y) - 0.01
    assert figures["top5"] > figures["top1"] and choice.lr in LR_GRID
    assert curves[0].top1[-1] == (predict(test_x * scale).argmax(1) == test_y).double().mean()


def test_settings_are_chosen_without_the_test_set(pixels):
    train_x, train_y, test_x, test_y = pixels
    one = linear_probe(train_x, train_y, test_x, test_y, 10, seeds=1, epochs=20)[0]
    other = linear_probe(train_x, train_y, torch.randn_like(test_x), test_y.flip(0), 10, seeds=1, epochs=20)[0]
    assert one == other


def test_seed_decides_everything_and_the_last_epoch_is_the_headline(pixels):
    runs = [linear_probe(*pixels, 10, seed=seed, seeds=2, epochs=20)[1] for seed in (1, 1, 2)]
    assert runs[0] == runs[1] and runs[0] != runs[2]
    figures = summary(runs[0])
    assert figures["top1_by_seed"] == [curve.top1[-1] for curve in runs[0]]
    assert figures["top1"] == sum(figures["top1_by_seed"]) / 2
    assert figures["best_epoch_top1_test_selected"] >= figures["top1"]


def test_probes_of_a_grid_do_not_touch_each_other(pixels):
    """A step of many is the step that torch's own optimiser makes of each."""
    x, y = softmax.with_ones(softmax.Scale.of(pixels[0])(pixels[0]).double()), pixels[1]
    lrs, decays = [1.0, 5.0], [0.0, 1e-2]
    probes = softmax.Probes(torch.zeros(20, 65, dtype=torch.float64), 10, lrs, decays)
    for _ in range(5):
        probes.step(x, y, 0.5)
    for number, (lr, decay) in enumerate(zip(lrs, decays, strict=True)):
        weight = torch.zeros(65, 10, dtype=torch.float64, requires_grad=True)
        optimizer = torch.optim.SGD([weight], lr * 0.5, momentum=softmax.MOMENTUM, weight_decay=decay)
        for _ in range(5):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(x @ weight, y).backward()
            optimizer.step()
        torch.testing.assert_close(probes.weights[10 * number : 10 * number + 10].T, weight.detach())


@pytest.mark.parametrize(("count", "size"), [(10, 4), (12, 4), (3, 5), (1, 1)])
def test_an_epoch_has_every_row_once(count, size):
    rows = torch.arange(count)
    generator = torch.Generator().manual_seed(0)
    for _ in range(5):
        batches = [softmax._circular(rows, *cut) for cut in softmax._cuts(count, size, generator)]
        assert torch.cat(batches).sort().values.tolist() == rows.tolist() and max(map(len, batches)) <= size


def test_choice_on_principal_components_is_the_choice_on_all(pixels, monkeypatch):
    """Rotated features of full rank: the same problem in other coordinates."""
    x, y = pixels[0][:300], pixels[1][:300]
    whole = linear.choose(x, y, 10, 0, epochs=10)
    monkeypatch.setattr(linear, "CHOICE_DIM", 63)
    rotated = linear.choose(x, y, 10, 0, epochs=10)
    differ = [abs(whole.split_top1[point] - rotated.split_top1[point]) for point in whole.split_top1]
    assert max(differ) <= 1 / 30 and len(differ) == 12


@pytest.mark.parametrize(
    ("device", "matmul", "fast"),
    [("cpu", torch.backends.mkldnn.matmul, "bf16"), ("cuda", torch.backends.cuda.matmul, "tf32")],
)
def test_products_are_rounded_in_training_and_whole_in_scoring(device, matmul, fast, monkeypatch):
    before, seen = matmul.fp32_precision, []

    class Probes:
        weights = torch.zeros(3, 2)

        def step(self, *batch) -> None:
            seen.append(matmul.fp32_precision)

    context = softmax.fast_products
    monkeypatch.setattr(softmax, "fast_products", lambda _: context(torch.device(device)))
    x, y = torch.rand(20, 2), torch.zeros(20, dtype=torch.int64)
    generator = torch.Generator().manual_seed(0)

    def look(epoch: int) -> None:
        seen.append(matmul.fp32_precision)

    softmax.train(Probes(), x, y, epochs=1, generator=generator, on_epoch=look)
    assert seen == [fast] * 10 + [before]


def test_few_classes_have_no_top5():
    x = torch.tensor([[0.0, 1], [0.1, 1], [1, 0], [1, 0.1]])
    y = torch.tensor([0, 0, 1, 1])
    figures = summary(linear_probe(x, y, x, y, 2)[1])
    assert figures["top5"] is None and figures["top1"] == 1


def test_paper_protocol_learns_from_augmented_images(fastvarcon, encoder_file, digits, tmp_path):
    args = ("--data.train", digits[0], "--data.val", digits[1], "--data.size", "8", "--out", tmp_path)
    said = fastvarcon("eval", "linear", encoder_file, *args, "--protocol", "paper", "--epochs", "2", "--policy", "crop")
    assert "augmented images (crop), 2 epochs" in said and "selected on the test images" in said
    score = json.loads((tmp_path / "eval" / "linear-paper.json").read_text())
    assert len(score["curve"]) == 3 and score["curve"][0]["epochs"] == [1, 2]
    assert score["top1"] == pytest.approx(sum(curve["top1"][-1] for curve in score["curve"]) / 3)
    page = (tmp_path / "report.html").read_text()
    assert "SELECTED ON THE TEST IMAGES" in page and "--protocol paper" in page


def test_split_holds_back_a_tenth_of_every_class_and_shares_nothing():
    labels = torch.tensor([0] * 50 + [1] * 20 + [2] * 2 + [3])
    fit, held = stratified_split(labels, HELD_BACK, torch.Generator().manual_seed(0))
    assert sorted(torch.cat([fit, held]).tolist()) == list(range(73))
    assert labels[held].bincount(minlength=4).tolist() == [5, 2, 1, 0]


def test_draws_take_the_same_number_of_each_class():
    labels = torch.tensor([0] * 50 + [1] * 20 + [2] * 2)
    drawn = draw(labels, 3, torch.Generator().manual_seed(0))
    assert labels[drawn].bincount().tolist() == [3, 3, 2] and len(drawn.unique()) == 8
    some = at_most(labels, 36, torch.Generator().manual_seed(0))
    assert labels[some].bincount().tolist() == [25, 10, 1] and torch.equal(some, some.sort().values)
    assert torch.equal(at_most(labels, 100, torch.Generator()), torch.arange(72))


def test_nothing_to_split():
    with pytest.raises(UserError, match="single training image"):
        linear_probe(torch.eye(3), torch.arange(3), torch.eye(3), torch.arange(3), 3)


def test_one_class():
    with pytest.raises(UserError, match="two classes"):
        linear_probe(torch.eye(3), torch.zeros(3).long(), torch.eye(3), torch.zeros(3).long(), 1)
