"""Linear probe: softmax regression on frozen features.

Protocol fast: features once. A grid of learning rates and weight decays is trained at once on a stratified split of the
training images; the best point is trained again on all of them, once a seed. The held-out images take no part in any
choice. Where features have more than CHOICE_DIM numbers, the choice is made on their first CHOICE_DIM principal
components: gradient descent and weight decay are blind to rotation, so this only leaves out directions of least
variance, and it costs a fraction.

Protocol paper (docs/maths/varcon.md#linear-evaluation): features of newly augmented images in every epoch, SGD with
momentum 0.9, batch 1024, learning rate 5, times 0.2 behind epochs 60, 75 and 90 of 100, no weight decay. The encoder is
frozen, so a pass over the images followed by a pass over their features is the same as both in one. The seeds share the
augmented images.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from fastvarcon.errors import UserError
from fastvarcon.evaluation import softmax
from fastvarcon.evaluation.features import Features, counts
from fastvarcon.evaluation.job import Job
from fastvarcon.evaluation.options import Linear
from fastvarcon.evaluation.scores import mean_std, top_k
from fastvarcon.evaluation.splits import stratified_split

LR_GRID = (1.0, 5.0, 25.0)
DECAY_GRID = (0.0, 1e-6, 1e-5, 1e-4)
EPOCHS = 100
HELD_BACK = 0.1  # share of each class that the choice is made on
CHOICE_DIM = 512
LOOK_EVERY = 10  # epochs between two looks at the held-out images, for the curve
PAPER_BATCH = 1024
PAPER_DROPS = (0.6, 0.75, 0.9)  # of the epochs; the learning rate falls to a fifth behind each


@dataclass
class Curve:
    """Held-out accuracy of one probe over its epochs. The last one counts."""

    epochs: list[int] = field(default_factory=list)
    top1: list[float] = field(default_factory=list)
    top5: float | None = None
    """At the last epoch; None with five classes or fewer."""

    def look(self, epoch: int, logits: Tensor, labels: Tensor) -> None:
        self.epochs.append(epoch)
        self.top1.append(top_k(logits, labels, 1))
        self.top5 = top_k(logits, labels, 5) if logits.shape[1] > 5 else None


@dataclass(frozen=True)
class Choice:
    lr: float
    decay: float
    split_top1: dict[str, float]
    """Accuracy on the split that the choice was made on, by "lr / decay"."""


def run(job: Job, options: Linear) -> dict:
    train, val = job.pair()
    if options.protocol == "paper":
        curves, protocol = _paper(job, options, len(train.classes), val)
        chosen: dict[str, object] = {"lr": options.lr, "decay": 0.0}
    else:
        choice, curves, _ = linear_probe(
            *on_device(train, val, job.device), len(train.classes), options.seed, options.seeds, options.epochs
        )
        chosen = {"lr": choice.lr, "decay": choice.decay, "train_split_top1": choice.split_top1}
        protocol = (
            f"softmax regression, {options.epochs} epochs, learning rate and decay chosen on {HELD_BACK:.0%} of the "
            f"training images, mean of {options.seeds} seeds, last epoch"
        )
    return {**summary(curves), **chosen, "protocol": protocol, "epochs": options.epochs, **counts(train, val)}


def on_device(train: Features, val: Features, device: torch.device) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The first four arguments of `linear_probe`."""
    return train.x.to(device), train.labels.to(device), val.x.to(device), val.labels.to(device)


def summary(curves: list[Curve]) -> dict:
    """The figures of probes that differ in their seeds."""
    last = [curve.top1[-1] for curve in curves]
    top5 = [curve.top5 for curve in curves if curve.top5 is not None]
    return {
        "top1": statistics.mean(last),
        "top1_std": mean_std(last)[1],
        "top1_by_seed": last,
        "top5": statistics.mean(top5) if top5 else None,
        "best_epoch_top1_test_selected": statistics.mean(max(curve.top1) for curve in curves),
        "curve": [dataclasses.asdict(curve) for curve in curves],
    }


def linear_probe(
    train_x: Tensor,
    train_y: Tensor,
    test_x: Tensor,
    test_y: Tensor,
    num_classes: int,
    seed: int = 0,
    seeds: int = 3,
    epochs: int = EPOCHS,
) -> tuple[Choice, list[Curve], Callable[[Tensor], Tensor]]:
    """Train on train_x [n, D], train_y [n]; score on test_x [m, D], test_y [m], which take no part in any choice.

    Returns the choice, the curve of every seed, and the first seed's probe: rows [m, D] -> logits [m, C].

    Raises:
        UserError: fewer than two classes, or no class with two training images to split.
    """
    if num_classes < 2:
        raise UserError("a linear probe needs at least two classes")
    choice = choose(train_x, train_y, num_classes, seed, epochs)
    scale = softmax.Scale.of(train_x)
    train_x, test_x = scale(train_x), scale(test_x)
    curves, trained = [], []
    for number in range(seeds):
        generator = torch.Generator().manual_seed(seed + number)
        probes = softmax.Probes(_initial(train_x, num_classes, generator), num_classes, [choice.lr], [choice.decay])
        curve = Curve()

        def look(epoch: int, probes: softmax.Probes = probes, curve: Curve = curve) -> None:
            if epoch % LOOK_EVERY == 0 or epoch == epochs:
                curve.look(epoch, probes.logits(test_x)[0], test_y)

        softmax.train(probes, train_x, train_y, epochs=epochs, generator=generator, on_epoch=look)
        curves.append(curve)
        trained.append(probes)
    return choice, curves, lambda x: trained[0].logits(scale(x))[0]


def choose(x: Tensor, y: Tensor, num_classes: int, seed: int, epochs: int = EPOCHS) -> Choice:
    """The point of the grid that does best on HELD_BACK of the training rows x [n, D]; ties go to the lower loss."""
    generator = torch.Generator().manual_seed(seed)
    fit, held = stratified_split(y.cpu(), HELD_BACK, generator)
    scale = softmax.Scale.of(x[fit])
    fit_x, held_x = scale(x[fit]), scale(x[held])
    if x.shape[1] > CHOICE_DIM:
        _, directions = torch.linalg.eigh(fit_x.T @ fit_x)
        fit_x, held_x = (part @ directions[:, -CHOICE_DIM:] for part in (fit_x, held_x))
    grid = [(lr, decay) for lr in LR_GRID for decay in DECAY_GRID]
    probes = softmax.Probes(
        fit_x.new_zeros(len(grid) * num_classes, fit_x.shape[1] + 1), num_classes, *map(list, zip(*grid, strict=True))
    )
    softmax.train(probes, fit_x, y[fit], epochs=epochs, generator=generator)
    logits = probes.logits(held_x)
    scores = [top_k(one, y[held], 1) for one in logits]
    losses = [torch.nn.functional.cross_entropy(one, y[held]).item() for one in logits]
    best = max(range(len(grid)), key=lambda point: (scores[point], -losses[point]))
    names = [f"{lr:g} / {decay:g}" for lr, decay in grid]
    return Choice(*grid[best], dict(zip(names, scores, strict=True)))


def _initial(x: Tensor, num_classes: int, generator: torch.Generator) -> Tensor:
    """[C, D + 1], uniform as in torch's Linear layer."""
    bound = 1 / math.sqrt(x.shape[1])
    weights = torch.empty(x.shape[1] + 1, num_classes).uniform_(-bound, bound, generator=generator)
    return weights.T.contiguous().to(x.device)


def _paper(job: Job, options: Linear, num_classes: int, val: Features) -> tuple[list[Curve], str]:
    val_x, val_y = val.x.to(job.device), val.labels.to(job.device)
    curves = [Curve() for _ in range(options.seeds)]
    generators = [torch.Generator().manual_seed(options.seed + number) for number in range(options.seeds)]
    probes = [
        softmax.Probes(_initial(val_x, num_classes, generator), num_classes, [options.lr], [0.0])
        for generator in generators
    ]
    for epoch in range(options.epochs):
        images = dataclasses.replace(job.train_images, policy=options.policy, epoch=epoch, seed=options.seed)
        made = job.features(images)
        x, y = softmax.with_ones(made.x.to(job.device)), made.labels.to(job.device)
        factor = 0.2 ** sum(epoch >= round(drop * options.epochs) for drop in PAPER_DROPS)
        for one, generator, curve in zip(probes, generators, curves, strict=True):
            for index in torch.randperm(len(x), generator=generator).to(x.device).split(PAPER_BATCH):
                one.step(x[index], y[index], factor)
            curve.look(epoch + 1, one.logits(val_x)[0], val_y)
    protocol = (
        f"softmax regression on augmented images ({options.policy}), {options.epochs} epochs of SGD, learning rate "
        f"{options.lr:g}, batch {PAPER_BATCH}, mean of {options.seeds} seeds, last epoch"
    )
    return curves, protocol
