"""`fastvarcon bench step` from end to end, and the reference loop against the loss of the library."""

import csv
import dataclasses
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from PIL import Image

from fastvarcon import varcon_loss
from fastvarcon.bench.rounds import Measured, run_for
from fastvarcon.bench.step import COMPETITORS, REFERENCE
from fastvarcon.bench.step_ours import Training
from fastvarcon.bench.step_reference import ReferenceLoop, dense_varcon
from fastvarcon.bench.steps import Steps
from fastvarcon.commands.bench import step
from fastvarcon.commands.settings import recipe_defaults
from fastvarcon.config import Config, DataConfig, ModelConfig, TrainConfig
from fastvarcon.errors import UserError

ROOT = Path(__file__).parents[2]


@pytest.fixture
def config(digits):
    """The digits recipe on a network and in a batch that suit a test."""
    defaults = recipe_defaults(ROOT / "recipes" / "digits.py")
    data = dataclasses.replace(defaults.data, train=digits[0], val=digits[1], size=8, eval_resize=8, workers=1)
    model = dataclasses.replace(defaults.model, width=0.125)
    train = dataclasses.replace(defaults.train, global_batch=32, device="cpu", threads=1)
    return dataclasses.replace(defaults, data=data, model=model, train=train)


def in_this_process(competitors, job, *, rounds, seconds, warm_up, on_step):
    """`measure` without its processes: loading torch four times takes longer than the rest of the test."""
    results = {}
    for name in sorted(competitors, key=lambda name: name == REFERENCE):  # it leaves a process group behind
        batches, results[name] = competitors[name](job), Measured()
        for _ in range(rounds):
            items, elapsed = run_for(batches, seconds)
            results[name].per_second.append(items / elapsed)
            results[name].cpu_seconds_per_1000.append(1.0)
            results[name].figures.append(batches.figures())
    dist.destroy_process_group()
    return results


def test_rows_of_one_run(config, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("fastvarcon.bench.step.measure", in_this_process)
    step(config, rounds=2, seconds=0.1, csv=tmp_path / "step.csv", plot=tmp_path / "step.png")
    rows = {row["competitor"]: row for row in csv.DictReader((tmp_path / "step.csv").read_text().splitlines())}
    assert list(rows) == list(COMPETITORS)
    reference, synthetic, real, encoder = rows.values()
    assert reference["ratio_to_reference"] == synthetic["ratio_to_synthetic"] == "1.0"
    assert float(synthetic["data_wait_fraction"]) < 0.1 and 0 <= float(real["data_wait_fraction"]) < 1
    assert all(float(row["views_per_second"]) > 0 and row["batch"] == "32" for row in rows.values())
    assert all(float(row["peak_host_mb"]) > 100 for row in (reference, synthetic, real))
    assert float(synthetic["framework_overhead"]) < 1 and encoder["framework_overhead"] == ""
    assert reference["width"] == "0.125" and reference["dataset"] == "train"
    assert Image.open(tmp_path / "step.png").width > 500 and "encoder alone" in capsys.readouterr().out


def test_a_step_is_the_trainers(config):
    """Two steps on synthetic data change the weights as two steps of any training do, and the loader goes on."""
    with Training(config) as training:
        views, labels = training.synthetic_batch()
        before = [p.clone() for p in training._run.model.parameters()]
        training.step(views, labels)
        for _, (views, labels) in zip(range(2), training.batches(), strict=False):
            training.step(views, labels)
        assert views.shape == (64, 3, 8, 8) and labels.shape == (32,)
        assert not any(torch.equal(p, q) for p, q in zip(before, training._run.model.parameters(), strict=True))


def test_recipe_gives_the_defaults_and_flags_win(fastvarcon, digits):
    flags = ("--recipe", "recipes/digits.py", "--data.train", digits[1], "--train.global-batch", "500")
    assert "holds 360 images, less than a batch" in fastvarcon("bench", "step", *flags, code=2)
    said = fastvarcon("bench", "step", "--recipe=recipes/digits.py", "--help")
    assert "(default: 256)" in said and "(default: runs/digits)" in said


def test_what_cannot_be_measured(config, tmp_path):
    with pytest.raises(UserError, match="is what the reference does"):
        step(dataclasses.replace(config, data=dataclasses.replace(config.data, backend="folder")))
    with pytest.raises(UserError, match="--rounds must be at least 1"):
        step(config, rounds=0)
    for path, message in (
        ("nothing.py", "does not exist"),
        ("fastvarcon/errors.py", "no DEFAULTS"),
        ("README.md", "not Python"),
    ):
        with pytest.raises(UserError, match=message):
            recipe_defaults(ROOT / path)


def test_loss_of_the_reference_is_the_loss():
    generator = torch.Generator().manual_seed(0)
    z = torch.nn.functional.normalize(torch.randn(40, 16, generator=generator, dtype=torch.float64), dim=1)
    labels = torch.randint(0, 7, (40,), generator=generator)
    one, other = z.clone().requires_grad_(), z.clone().requires_grad_()
    loss, figures = dense_varcon(one, labels, 0.1, 0.02)
    expected = varcon_loss(other, labels, 9, tau1=0.1, eps=0.02, backend="reference")
    loss.backward()
    expected.backward()
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(one.grad, other.grad)
    assert 0.08 <= figures["tau2"] <= 0.12


def test_reference_loop_learns(tmp_path):
    config = Config(
        DataConfig(size=8), ModelConfig("resnet18", width=0.125, small_images=True), train=TrainConfig(lr=0.05)
    )
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/meeting", rank=0, world_size=1)
    try:
        torch.manual_seed(0)
        loop = ReferenceLoop(config, torch.device("cpu"))
        labels = torch.arange(8) % 4
        views = torch.randn(4, 3, 8, 8)[labels].repeat(2, 1, 1, 1) + 0.1 * torch.randn(16, 3, 8, 8)
        losses = [(loop.step(views, labels), loop.means["loss"])[1] for _ in range(8)]
    finally:
        dist.destroy_process_group()
    assert losses[-1] < 0.5 * losses[0]


def test_waiting_is_the_share_of_the_slow_side(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr("fastvarcon.bench.steps.time.perf_counter", lambda: clock[0])

    def batches():
        while True:
            clock[0] += 3.0
            yield torch.zeros(4), torch.zeros(2)

    def step(views, labels):
        clock[0] += 1.0

    steps = Steps(batches(), step, torch.device("cpu"))
    assert [next(steps), next(steps)] == [4, 4]
    assert steps.figures()["waiting"] == 0.75
    next(steps)
    assert steps.figures()["waiting"] == 0.75
