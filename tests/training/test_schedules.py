import math

import pytest
import torch

from fastvarcon.config import TrainConfig
from fastvarcon.training.presets import reference
from fastvarcon.training.schedules import Schedule, peak_rate


def rates(steps_per_epoch: int = 1, **settings) -> list[float]:
    train = TrainConfig(**settings)
    schedule = Schedule(train, steps_per_epoch)
    return [schedule(step) for step in range(train.epochs * steps_per_epoch)]


def test_warmup_then_half_cosine():
    curve = rates(epochs=100, lr=0.5, warmup_epochs=10)
    assert curve[:10] == pytest.approx([0.05 * (i + 1) for i in range(10)])
    assert curve[10] == 0.5 and max(curve) == 0.5
    assert curve[55] == pytest.approx(0.25) and curve[99] == pytest.approx(0.25 * (1 + math.cos(math.pi * 89 / 90)))
    assert curve[10:] == sorted(curve[10:], reverse=True)


def test_without_warmup_the_first_step_is_at_the_peak():
    assert rates(epochs=5, lr=0.1, warmup_epochs=0)[0] == 0.1


def test_warmup_over_the_whole_run():
    assert rates(epochs=5, lr=0.1, warmup_epochs=5)[4] == pytest.approx(0.1)


def test_cosine_is_that_of_torch():
    weight = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([weight], lr=0.5)
    theirs = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=40, eta_min=0.005)
    for rate in rates(steps_per_epoch=4, epochs=10, lr=0.5, warmup_epochs=0, lr_end=0.01):
        assert rate == pytest.approx(optimizer.param_groups[0]["lr"])
        optimizer.step()
        theirs.step()


def test_step_decay():
    curve = rates(
        steps_per_epoch=2, epochs=6, lr=1.0, warmup_epochs=1, schedule="step", decay_epochs=(4, 2), decay_factor=0.1
    )
    assert curve == pytest.approx([0.5, 1, 1, 1, 0.1, 0.1, 0.1, 0.1, 0.01, 0.01, 0.01, 0.01])


def test_scaling_rules_are_stated():
    for rule, peak, words in (
        ("none", 0.1, "0.1 (as given)"),
        ("linear", 1.6, "1.6 (0.1 x 4096/256)"),
        ("sqrt", 0.4, "0.4 (0.1 x sqrt(4096/256))"),
    ):
        train = TrainConfig(lr=0.1, global_batch=4096, lr_scale=rule)
        assert peak_rate(train) == pytest.approx(peak) and words in Schedule(train, 10).describe()
        assert max(Schedule(train, 1)(step) for step in range(200)) == pytest.approx(peak)


def test_preset_has_the_reference_runs_learning_rates():
    """The command (lr 0.5) per epoch, docs/maths/varcon.md#the-reference-run, and an eighth of it as effective rate,
    docs/maths/varcon.md#gradient-scale.
    """
    train, steps = reference(), 48
    schedule = Schedule(train, steps)
    for epoch, rate in ((11, 0.49628), (100, 0.25025), (200, 0.0005)):
        values = {schedule((epoch - 1) * steps + step) for step in range(steps)}
        assert [8 * value for value in values] == pytest.approx([rate], abs=5e-6)
    for epoch in range(11, 201):
        cosine = 0.0005 + (0.5 - 0.0005) * (1 + math.cos(math.pi * epoch / 200)) / 2
        assert 8 * schedule((epoch - 1) * steps) == pytest.approx(cosine, rel=1e-12)
    assert schedule(0) == 0.00125 and schedule(steps * 200 - 1) == pytest.approx(6.25e-5)
    warmup = [schedule(step) for step in range(10 * steps + 1)]
    slope = (0.062116 - 0.00125) / (10 * steps)
    assert warmup[:-1] == pytest.approx([0.00125 + slope * step for step in range(10 * steps)], abs=1e-6)
    assert (train.lr, train.weight_decay, train.bn_group) == (0.0625, 8e-4, 128)


def test_effective_settings_are_those_of_a_gradient_divided_by_the_world_size():
    """The identity behind the preset, with torch's own SGD in float64."""

    def run(divide: float, lr: float, weight_decay: float) -> torch.Tensor:
        weight = torch.nn.Parameter(torch.linspace(-1, 1, 5, dtype=torch.float64))
        optimizer = torch.optim.SGD([weight], lr=lr, momentum=0.9, weight_decay=weight_decay)
        for _ in range(30):
            optimizer.zero_grad()
            ((weight - 0.3) ** 4).sum().div(divide).backward()
            optimizer.step()
        return weight.detach()

    train = reference()
    torch.testing.assert_close(run(8, 0.5, 1e-4), run(1, train.lr, train.weight_decay), rtol=1e-12, atol=0)
