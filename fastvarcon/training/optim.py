"""Optimisers by name, their parameter groups, and their state in checkpoints."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn as nn

from fastvarcon.config import TrainConfig
from fastvarcon.models import ContrastiveModel
from fastvarcon.training.lars import Lars

CRITERION_LR = 1e-4


def build_optimizer(model: ContrastiveModel, train: TrainConfig, device: torch.device) -> torch.optim.Optimizer:
    """The optimiser that `train` names, over the parameters of the model."""
    groups, fused = parameter_groups(model, train), device.type == "cuda"
    if train.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=train.lr, betas=(train.momentum, 0.999), fused=fused)
    if train.optimizer == "lars":
        return Lars(groups, lr=train.lr, momentum=train.momentum, nesterov=train.nesterov, trust=train.lars_trust)
    return torch.optim.SGD(groups, lr=train.lr, momentum=train.momentum, nesterov=train.nesterov, fused=fused)


def parameter_groups(model: ContrastiveModel, train: TrainConfig) -> list[dict]:
    """Who is decayed: all in one group, as the reference code (docs/maths/varcon.md#the-reference-run), or not norms,
    biases and what the encoder exempts."""
    lars = train.optimizer == "lars"
    if train.decay_norm_and_bias and not lars:
        return [{"params": list(model.parameters()), "weight_decay": train.weight_decay}]
    exempt = exempt_from_decay(model)
    decayed = {"params": [p for name, p in model.named_parameters() if name not in exempt]}
    spared = {"params": [p for name, p in model.named_parameters() if name in exempt], "weight_decay": 0.0}
    return [{**decayed, "weight_decay": train.weight_decay}, {**spared, "adapt": False} if lars else spared]


def exempt_from_decay(model: ContrastiveModel) -> set[str]:
    """Names of the parameters that act on channels, not as matrices: norm scales, biases, and what timm's networks name
    (position embeddings, class tokens)."""
    names = {name for name, parameter in model.named_parameters() if parameter.ndim <= 1}
    encoder: Any = model.encoder
    if hasattr(encoder, "no_weight_decay"):
        names |= {f"encoder.{name}" for name in encoder.no_weight_decay()}
    return names


def add_criterion(optimizer: torch.optim.Optimizer, criterion: nn.Module) -> None:
    """Let the optimizer learn what the loss may learn, the width eps of its temperature, without weight decay.

    The gradient by eps is of order 1 and its range 0.08: at the rate of the weights (momentum makes 0.5 five) it would
    jump from end to end, so it takes CRITERION_LR of that. Lars does not adapt it.
    """
    parameters = list(criterion.parameters())
    if parameters:
        group = {"params": parameters, "weight_decay": 0.0, "lr_share": CRITERION_LR, "adapt": False}
        optimizer.add_param_group(group)


def set_learning_rate(optimizer: torch.optim.Optimizer, value: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = value * group.get("lr_share", 1.0)


def restore_optimizer(optimizer: torch.optim.Optimizer, state: dict) -> None:
    """Load a state dict from a checkpoint, whose buffers are contiguous and which may come from another device.

    The fused kernels read a buffer in the memory layout of its parameter (channels_last), so buffers are laid out anew,
    and count the steps where the parameter is; torch leaves the count of a run on the CPU on the host.
    """
    fused = [group["fused"] for group in optimizer.param_groups if "fused" in group]
    optimizer.load_state_dict(state)
    for group, value in zip(optimizer.param_groups, fused, strict=False):  # lars has no such choice
        group["fused"] = value
    fused_parameters = {p for group in optimizer.param_groups if group.get("fused") for p in group["params"]}
    for parameter, buffers in optimizer.state.items():
        if parameter in fused_parameters and "step" in buffers:
            buffers["step"] = buffers["step"].to(parameter.device)
        for name, buffer in buffers.items():
            if torch.is_tensor(buffer) and buffer.shape == parameter.shape:
                buffers[name] = torch.empty_like(parameter, dtype=buffer.dtype).copy_(buffer)
