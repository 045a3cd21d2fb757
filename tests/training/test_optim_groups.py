"""LARS, and who is decayed."""

import pytest
import torch

from fastvarcon.config import ModelConfig, TrainConfig
from fastvarcon.models import ContrastiveModel
from fastvarcon.training.lars import Lars
from fastvarcon.training.optim import add_criterion, build_optimizer

CPU = torch.device("cpu")


def weights() -> list[torch.nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    return [torch.nn.Parameter(torch.randn(shape, generator=generator)) for shape in ((4, 3), (2, 5), (6,))]


def train(optimizer: torch.optim.Optimizer, parameters: list[torch.nn.Parameter]) -> None:
    generator = torch.Generator().manual_seed(1)
    for _ in range(4):
        for parameter in parameters:
            parameter.grad = torch.randn(parameter.shape, generator=generator)
        optimizer.step()


@pytest.mark.parametrize("nesterov", [False, True])
def test_lars_is_that_of_timm(nesterov):
    timm = pytest.importorskip("timm.optim", reason="timm is not installed")
    mine, theirs = weights(), weights()
    settings = {"lr": 2.0, "momentum": 0.9, "weight_decay": 1e-2, "nesterov": nesterov}
    train(Lars(mine, **settings, trust=0.02), mine)
    train(timm.Lars(theirs, **settings, trust_coeff=0.02), theirs)
    torch.testing.assert_close(mine, theirs)


@pytest.mark.parametrize("nesterov", [False, True])
def test_lars_without_adaptation_is_sgd(nesterov):
    mine, theirs = weights(), weights()
    settings = {"lr": 0.1, "momentum": 0.9, "weight_decay": 1e-2, "nesterov": nesterov}
    train(Lars([{"params": mine, "adapt": False}], **settings), mine)
    train(torch.optim.SGD(theirs, **settings), theirs)
    torch.testing.assert_close(mine, theirs)


def test_lars_moves_tensors_of_norm_zero_and_bears_gradients_of_zero():
    zero, still = torch.nn.Parameter(torch.zeros(3, 3)), torch.nn.Parameter(torch.ones(2, 2))
    zero.grad, still.grad = torch.ones(3, 3), torch.zeros(2, 2)
    Lars([zero, still], lr=0.1, trust=0.001).step()
    assert torch.allclose(zero, torch.full((3, 3), -0.1)) and torch.equal(still, torch.ones(2, 2))


def network() -> tuple[torch.nn.Module, torch.nn.Module]:
    criterion = torch.nn.Module()
    criterion.eps = torch.nn.Parameter(torch.tensor(0.02))
    return ContrastiveModel(ModelConfig("resnet18", width=0.125)), criterion


def decay_of(model, criterion, **settings) -> dict[str, float]:
    optimizer = build_optimizer(model, TrainConfig(weight_decay=0.1, **settings), CPU)
    add_criterion(optimizer, criterion)
    names = {parameter: name for name, parameter in [*model.named_parameters(), *criterion.named_parameters()]}
    decay = {names[p]: group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert decay.keys() == set(names.values())
    return decay


def test_the_reference_decays_everything_but_a_parameter_of_the_loss():
    decay = decay_of(*network())
    assert decay.pop("eps") == 0 and set(decay.values()) == {0.1}


@pytest.mark.parametrize(
    "settings", [{"decay_norm_and_bias": False}, {"decay_norm_and_bias": False, "optimizer": "adamw"}]
)
def test_norms_and_biases_can_be_left_alone(settings):
    model, criterion = network()
    layers = (torch.nn.Conv2d, torch.nn.Linear)
    decayed = {f"{name}.weight" for name, module in model.named_modules() if isinstance(module, layers)}
    decay = decay_of(model, criterion, **settings)
    assert {name for name in decay if decay[name] == 0.1} == decayed and set(decay.values()) == {0, 0.1}


def test_vision_transformers_say_what_else_is_left_alone():
    pytest.importorskip("timm", reason="timm is not installed")
    model = ContrastiveModel(ModelConfig("timm/test_vit"), size=32)
    decay = decay_of(model, torch.nn.Module(), optimizer="adamw", decay_norm_and_bias=False)
    layers = (torch.nn.Conv2d, torch.nn.Linear)
    decayed = {f"{name}.weight" for name, module in model.named_modules() if isinstance(module, layers)}
    assert {name for name in decay if decay[name]} == decayed
    assert decay["encoder.pos_embed"] == decay["encoder.cls_token"] == decay["encoder.norm.weight"] == 0


def test_lars_neither_adapts_nor_decays_norms_and_biases():
    model, criterion = network()
    optimizer = build_optimizer(model, TrainConfig(optimizer="lars"), CPU)
    add_criterion(optimizer, criterion)
    adapted, *exempt = optimizer.param_groups
    assert adapted["adapt"] and adapted["weight_decay"] > 0 and {p.ndim for p in adapted["params"]} == {2, 4}
    assert len(exempt) == 2 and all(not group["adapt"] and group["weight_decay"] == 0 for group in exempt)


@pytest.mark.parametrize(
    ("settings", "kind"),
    [({}, torch.optim.SGD), ({"nesterov": True}, torch.optim.SGD), ({"optimizer": "adamw"}, torch.optim.AdamW)],
)
def test_optimisers_by_name(settings, kind):
    optimizer = build_optimizer(network()[0], TrainConfig(**settings), CPU)
    assert isinstance(optimizer, kind) and optimizer.defaults.get("nesterov", False) == settings.get("nesterov", False)
