import math

import pytest

from fastvarcon.training.optim import learning_rate


def test_warmup_then_half_cosine():
    rates = [learning_rate(step, total_steps=100, warmup_steps=10, peak=0.5) for step in range(100)]
    assert rates[:10] == pytest.approx([0.05 * (i + 1) for i in range(10)])
    assert rates[10] == 0.5 and max(rates) == 0.5
    assert rates[55] == pytest.approx(0.25) and rates[99] == pytest.approx(0.25 * (1 + math.cos(math.pi * 89 / 90)))
    assert rates[10:] == sorted(rates[10:], reverse=True)


def test_without_warmup_the_first_step_is_at_the_peak():
    assert learning_rate(0, total_steps=5, warmup_steps=0, peak=0.1) == 0.1


def test_warmup_over_the_whole_run():
    assert learning_rate(4, total_steps=5, warmup_steps=5, peak=0.1) == pytest.approx(0.1)
