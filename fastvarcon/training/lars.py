"""LARS (You, Gitman, Ginsburg 2017): SGD whose step is scaled, tensor by tensor, to the norm of the tensor.

    d <- (g + wd w) x trust |w| / (|g| + wd |w|)        tensors of an adapted group whose two norms are positive
    d <- g + wd w                                       all others: a zero tensor has to be able to leave zero
    v <- momentum v + d,    w <- w - lr v               as torch's SGD (Nesterov: w <- w - lr (d + momentum v))

Batch-norm scales and biases belong into a group with adapt=False and weight_decay=0: their norms say nothing about the
size of a useful step. Nothing here waits for the device.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor


class Lars(torch.optim.Optimizer):
    """Arguments as torch.optim.SGD, and `trust`, the relative step at lr 1. Groups may set `adapt`."""

    def __init__(
        self,
        params: Iterable,
        lr: float,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        nesterov: bool = False,
        trust: float = 0.001,
    ):
        defaults = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "nesterov": nesterov}
        super().__init__(params, {**defaults, "trust": trust, "adapt": True})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]  # nothing here calls a closure
        for group in self.param_groups:
            weights = [w for w in group["params"] if w.grad is not None]
            if not weights:
                continue
            steps = self._directions(weights, group)
            buffers = [self._momentum(w) for w in weights]
            torch._foreach_mul_(buffers, group["momentum"])
            torch._foreach_add_(buffers, steps)
            if group["nesterov"]:
                torch._foreach_add_(steps, buffers, alpha=group["momentum"])
            torch._foreach_add_(weights, steps if group["nesterov"] else buffers, alpha=-group["lr"])

    def _directions(self, weights: list[Tensor], group: dict) -> list[Tensor]:
        gradients, decay = [w.grad for w in weights if w.grad is not None], group["weight_decay"]
        steps = list(torch._foreach_add(gradients, weights, alpha=decay))
        if group["adapt"]:
            w_norm, g_norm = (torch.stack(torch._foreach_norm(tensors)) for tensors in (weights, gradients))
            ratio = group["trust"] * w_norm / (g_norm + decay * w_norm)
            ratio = torch.where((w_norm > 0) & (g_norm > 0), ratio, torch.ones_like(ratio))
            torch._foreach_mul_(steps, list(ratio.unbind()))
        return steps

    def _momentum(self, weight: Tensor) -> Tensor:
        state = self.state[weight]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(weight)
        return state["momentum_buffer"]
