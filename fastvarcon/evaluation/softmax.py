"""Softmax regression by SGD, many probes at once.

The probes are the rows of one matrix W_PD, P = probes x classes: a step of all of them is one matrix product forward
and one backward, W_PD X_BD^T and E_PB X_BD. The samples of a batch lie side by side, so that the softmax over the
classes is vectorised for few classes too. Each probe has its own learning rate and weight decay; probes of other seeds
see the samples in other orders and are trained one after another.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fastvarcon.evaluation.threads import threads_for

MOMENTUM = 0.9
FEWEST_STEPS = 10
"""Steps in an epoch at least: small training sets get smaller batches."""
LARGEST_BATCH = 2048
"""Matrix products run at full speed from here on; updates of the weights are what smaller batches cost."""


@dataclass(frozen=True)
class Scale:
    """Features minus their mean, over their deviation and sqrt(D): rows have length 1 on average, whatever the encoder,
    and one grid of learning rates fits all."""

    mean: Tensor
    std: Tensor

    @staticmethod
    def of(x: Tensor) -> Scale:
        return Scale(x.mean(0), x.std(0, correction=0).clamp(min=1e-6) * math.sqrt(x.shape[1]))

    def __call__(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.std


class Probes:
    """`lrs` x `decays`, given as one pair per probe, on features of D numbers and C classes.

    Attributes:
        weights: [probes * C, D + 1], bias last.
    """

    def __init__(self, weights: Tensor, num_classes: int, lrs: list[float], decays: list[float]):
        self.weights, self._classes, self._count = weights, num_classes, len(lrs)
        self._velocity = torch.zeros_like(weights)
        self._lr = weights.new_tensor(lrs).repeat_interleave(num_classes)[:, None]
        self._decay = weights.new_tensor(decays).repeat_interleave(num_classes)[:, None]

    def logits(self, x: Tensor) -> Tensor:
        """[n, D] -> [probes, n, C]"""
        flat = torch.addmm(self.weights[:, -1], x, self.weights[:, :-1].T)
        return flat.view(len(x), self._count, self._classes).transpose(0, 1)

    def step(self, rows: Tensor, labels: Tensor, factor: float) -> None:
        """One step on rows [B, D + 1], the last column ones, at `factor` times the learning rates."""
        error = self.weights @ rows.T
        per_probe = error.view(self._count, self._classes, len(rows))
        torch.softmax(per_probe, dim=1, out=per_probe)
        target = labels.view(1, 1, -1).expand(self._count, 1, -1)  # the gradient of the cross-entropy: p - onehot
        per_probe.scatter_add_(1, target, error.new_full((1, 1, 1), -1.0).expand_as(target))
        self._velocity.addcmul_(self.weights, self._decay / MOMENTUM)
        torch.addmm(self._velocity, error, rows, beta=MOMENTUM, alpha=1 / len(rows), out=self._velocity)
        self.weights.addcmul_(self._velocity, self._lr, value=-factor)


def batch_size(num_rows: int) -> int:
    return max(1, min(LARGEST_BATCH, num_rows // FEWEST_STEPS))


def train(
    probes: Probes,
    x: Tensor,
    y: Tensor,
    *,
    epochs: int,
    generator: torch.Generator,
    on_epoch: Callable[[int], None] = lambda epoch: None,
) -> None:
    """`epochs` passes over x [n, D], y [n] with cosine decay. `on_epoch` is told the number of epochs done.

    The rows are shuffled once; an epoch is the circle of them, cut at a random place into batches that come in random
    order. So a batch is a view: collecting random rows would cost more than the products with them.
    """
    order = torch.randperm(len(x), generator=generator).to(x.device)
    x, y = with_ones(x)[order], y[order]
    size = batch_size(len(x))
    steps, step = epochs * math.ceil(len(x) / size), 0
    with threads_for(size * probes.weights.numel()):
        for epoch in range(epochs):
            with fast_products(x.device):
                for start, count in _cuts(len(x), size, generator):
                    rows = _circular(x, start, count), _circular(y, start, count)
                    probes.step(*rows, 0.5 * (1 + math.cos(math.pi * step / steps)))
                    step += 1
            on_epoch(epoch + 1)


def _cuts(count: int, size: int, generator: torch.Generator) -> list[tuple[int, int]]:
    """(start, length) of batches of about `size` that cover a circle of `count` rows."""
    steps = math.ceil(count / size)
    offset = int(torch.randint(count, (1,), generator=generator))
    bounds = [count * step // steps for step in range(steps + 1)]
    places = torch.randperm(steps, generator=generator).tolist()
    return [((offset + bounds[place]) % count, bounds[place + 1] - bounds[place]) for place in places]


def _circular(x: Tensor, start: int, count: int) -> Tensor:
    over = start + count - len(x)
    return x[start : start + count] if over <= 0 else torch.cat([x[start:], x[:over]])


def with_ones(x: Tensor) -> Tensor:
    return torch.cat([x, x.new_ones(len(x), 1)], 1)


@contextlib.contextmanager
def fast_products(device: torch.device) -> Iterator[None]:
    """Inside, float32 products may round their factors, to TF32 on a GPU, on a CPU to bfloat16 if it has units for it
    (sums stay float32; elsewhere nothing changes). Training only: what is scored is computed outside."""
    backends: Any = torch.backends  # mkldnn.matmul is made when its module is loaded
    on_cpu = device.type == "cpu"
    products = backends.mkldnn.matmul if on_cpu else backends.cuda.matmul
    before, products.fp32_precision = products.fp32_precision, "bf16" if on_cpu else "tf32"
    try:
        yield
    finally:
        products.fp32_precision = before
