"""Exponential moving average of the weights (Polyak averaging): often a better encoder than the last step's."""

from __future__ import annotations

import copy

import torch

from fastvarcon.models import ContrastiveModel


class Ema:
    """After step t = 1, 2, ...: average <- d average + (1 - d) weights with d = min(decay, t / (t + 9)).

    The bound lets the average forget the random start. Running statistics of batch norm are averaged like weights,
    counters are copied.
    """

    def __init__(self, network: ContrastiveModel, decay: float):
        """Averages `network` from its present weights on; `model` is the average, in eval mode.

        To be made before batch norm is converted: the layers of other processes cannot be copied, their tensors stay.
        """
        self.model = copy.deepcopy(network).requires_grad_(False).eval()
        self._decay = decay
        pairs = list(zip(self.model.state_dict().values(), network.state_dict().values(), strict=True))
        self._averaged = [pair for pair in pairs if pair[0].is_floating_point()]
        self._copied = [pair for pair in pairs if not pair[0].is_floating_point()]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after `step` steps."""
        average, weights = zip(*self._averaged, strict=True)
        torch._foreach_lerp_(average, weights, 1 - min(self._decay, step / (step + 9)))
        for mine, its in self._copied:
            mine.copy_(its)
