"""SGD with momentum and the per-step learning-rate schedule."""

from __future__ import annotations

import math

import torch
import torch.nn as nn

from fastvarcon.config import TrainConfig

CRITERION_LR = 1e-4


def build_optimizer(model: nn.Module, train: TrainConfig, device: torch.device) -> torch.optim.Optimizer:
    """One parameter group, weight decay on everything, as the reference code (spec/varcon.md 2.1)."""
    return torch.optim.SGD(
        model.parameters(),
        lr=train.lr,
        momentum=train.momentum,
        weight_decay=train.weight_decay,
        fused=device.type == "cuda",
    )


def add_criterion(optimizer: torch.optim.Optimizer, criterion: nn.Module) -> None:
    """Let the optimizer learn what the loss may learn, the width eps of its temperature, without weight decay.

    The gradient by eps is of order 1 and its range 0.08: at the rate of the weights (momentum makes 0.5 five) it would
    jump from end to end, so it takes CRITERION_LR of that.
    """
    parameters = list(criterion.parameters())
    if parameters:
        optimizer.add_param_group({"params": parameters, "weight_decay": 0.0, "lr_share": CRITERION_LR})


def learning_rate(step: int, *, total_steps: int, warmup_steps: int, peak: float) -> float:
    """Linear warm-up over `warmup_steps` up to `peak`, then a half cosine that reaches 0 behind the last step.

    step counts from 0; the value is that of the update made in this step, so the first one is already above 0.
    """
    if step < warmup_steps:
        return peak * (step + 1) / warmup_steps
    progress = (step - warmup_steps) / max(1, total_steps - warmup_steps)
    return peak * 0.5 * (1 + math.cos(math.pi * progress))


def set_learning_rate(optimizer: torch.optim.Optimizer, value: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = value * group.get("lr_share", 1.0)


def restore_optimizer(optimizer: torch.optim.Optimizer, state: dict) -> None:
    """Load a state dict from a checkpoint, whose buffers are contiguous and which may come from another device.

    The fused kernels read a buffer in the memory layout of its parameter (channels_last), so buffers are laid out anew.
    """
    fused = [group.get("fused") for group in optimizer.param_groups]
    optimizer.load_state_dict(state)
    for group, value in zip(optimizer.param_groups, fused, strict=True):
        group["fused"] = value
    for parameter, buffers in optimizer.state.items():
        for name, buffer in buffers.items():
            if torch.is_tensor(buffer) and buffer.shape == parameter.shape:
                buffers[name] = torch.empty_like(parameter, dtype=buffer.dtype).copy_(buffer)
