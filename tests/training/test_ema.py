import torch

from fastvarcon.training.ema import Ema


def test_average_of_weights_and_running_statistics():
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    ema, expected = Ema(network, 0.5), {k: v.clone() for k, v in network.state_dict().items()}
    for step in range(1, 30):
        for parameter in network.parameters():
            parameter.data += torch.randn_like(parameter)
        network(torch.randn(8, 3))
        ema.update(step)
        decay = min(0.5, step / (step + 9))
        for name, value in network.state_dict().items():
            average = decay * expected[name] + (1 - decay) * value
            expected[name] = average if value.is_floating_point() else value.clone()
    torch.testing.assert_close(dict(ema.model.state_dict()), expected)
    assert not ema.model.training and not any(p.requires_grad for p in ema.model.parameters())


def test_average_follows_weights_that_are_loaded():
    network = torch.nn.Linear(2, 2)
    ema = Ema(network, 0.0)
    network.load_state_dict({k: torch.full_like(v, 7.0) for k, v in network.state_dict().items()})
    ema.update(1)
    assert torch.equal(ema.model.weight, torch.full((2, 2), 7.0))
