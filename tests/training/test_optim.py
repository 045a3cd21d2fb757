import pytest
import torch

from fastvarcon.training.checkpoint import load_checkpoint, save_checkpoint
from fastvarcon.training.optim import restore_optimizer


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


def test_step_counts_of_a_cpu_run_move_to_the_device_of_fused_kernels():
    begun = torch.nn.Parameter(torch.ones(3))
    begun.grad = torch.ones(3)
    saved = torch.optim.AdamW([begun])
    saved.step()
    parameter = torch.nn.Parameter(torch.ones(3, device="meta"))
    resumed = torch.optim.AdamW([parameter])
    resumed.param_groups[0]["fused"] = True
    restore_optimizer(resumed, saved.state_dict())
    assert {buffer.device.type for buffer in resumed.state[parameter].values()} == {"meta"}
