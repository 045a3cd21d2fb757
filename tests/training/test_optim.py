import math

import pytest
import torch

from fastvarcon.training.checkpoint import load_checkpoint, save_checkpoint
from fastvarcon.training.optim import learning_rate, restore_optimizer


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


@pytest.mark.parametrize("fused", [False, True])
def test_restored_momentum_has_the_layout_of_its_parameter(fused, tmp_path):
    """Checkpoints are contiguous, parameters channels_last: a fused kernel would mix up the elements."""

    def network():
        torch.manual_seed(0)
        model = torch.nn.Conv2d(4, 8, 3).to(memory_format=torch.channels_last)
        return model, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, fused=fused)

    def step(model, optimizer, seed):
        generator = torch.Generator().manual_seed(seed)
        optimizer.zero_grad()
        model(torch.randn(2, 4, 9, 9, generator=generator)).square().sum().backward()
        optimizer.step()

    whole, resumed = network(), network()
    step(*whole, 1)
    save_checkpoint(tmp_path, {"model": whole[0].state_dict(), "optimizer": whole[1].state_dict()})
    state = load_checkpoint(tmp_path)
    state["optimizer"]["param_groups"][0]["fused"] = not fused  # as if it came from another device
    resumed[0].load_state_dict(state["model"])
    restore_optimizer(resumed[1], state["optimizer"])
    assert resumed[1].param_groups[0]["fused"] is fused
    for parameter, buffers in resumed[1].state.items():
        assert buffers["momentum_buffer"].stride() == parameter.stride()
    step(*whole, 2), step(*resumed, 2)
    assert all(torch.equal(a, b) for a, b in zip(whole[0].parameters(), resumed[0].parameters(), strict=True))
