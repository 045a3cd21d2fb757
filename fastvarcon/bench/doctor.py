"""`fastvarcon doctor`: what a training would wait for on this machine, measured on its own data, model and batch."""

from __future__ import annotations

import dataclasses
import itertools
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fastvarcon.bench.rounds import run_for
from fastvarcon.bench.step_ours import Training
from fastvarcon.bench.steps import Steps
from fastvarcon.config import Config
from fastvarcon.data.backends import BackendOptions
from fastvarcon.data.backends.resident import choose_place
from fastvarcon.data.beton import JPG
from fastvarcon.data.records import open_records
from fastvarcon.data.sampling import local_batch_size
from fastvarcon.errors import UserError
from fastvarcon.machine import available_cores

ENOUGH = 0.95  # of the synthetic rate: nothing worth having is lost to the data
WARM_UP = 3  # batches before a measurement, fewer where they take long
LARGE = 2.5  # times the side of a view: an image that is decoded for nothing


@dataclass(frozen=True)
class Rates:
    """Views per second of one process, each part alone and then all together."""

    loader: float
    """Decoding and views, as the loader hands them out."""
    views: float
    """Views of images that are decoded already."""
    synthetic: float
    """Training steps that never wait."""
    real: float
    """Training steps on the data."""
    waiting: float
    """Share of the time of real steps spent waiting for data."""


@dataclass(frozen=True)
class Place:
    """What the verdict has to know beside the rates."""

    on_gpu: bool
    cores: int
    """Of one process."""
    backend: str
    fits: bool
    """The decoded dataset would fit into memory (--data.backend resident)."""
    jpeg: bool
    large: bool
    """The images have far more pixels than a view."""


@dataclass(frozen=True)
class Diagnosis:
    rates: Rates
    place: Place
    hours: float
    """The whole recipe on all processes, if they disturb each other in nothing."""

    @property
    def verdict(self) -> str:
        return verdict(self.rates, self.place)


def diagnose(config: Config, processes: int, seconds: float, on_step: Callable[[str], None]) -> Diagnosis:
    """Measure one of `processes` processes of a training for about `seconds`.

    Raises:
        UserError: settings or data that no training could start with.
    """
    config.validate()
    share = one_of(config, processes)
    share.validate()
    with Training(share) as training:
        rates = _measure(training, seconds / 4, on_step)
        place = _place(config, share, training.device)
        steps = len(training.data.train) * config.train.epochs
    views = steps * config.train.global_batch * config.data.num_views
    return Diagnosis(rates, place, views / (rates.real * processes) / 3600)


def one_of(config: Config, processes: int) -> Config:
    """The settings with which one process alone does the work of one of `processes` on this machine."""
    cores = max(1, available_cores() // processes)
    batch = local_batch_size(config.train.global_batch, processes)
    return dataclasses.replace(
        config,
        data=dataclasses.replace(config.data, workers=config.data.workers or cores),
        train=dataclasses.replace(config.train, global_batch=batch, threads=config.train.threads or cores),
    )


def _measure(training: Training, seconds: float, on_step: Callable[[str], None]) -> Rates:
    def rate(what: str, batches: Iterator[tuple[Tensor, Tensor]], step) -> tuple[float, float]:
        on_step(what)
        steps = Steps(batches, step, training.device)
        warm_up(steps, seconds)
        steps.figures()
        items, elapsed = run_for(steps, seconds)
        return items / elapsed, steps.figures()["waiting"]

    def nothing(views: Tensor, labels: Tensor) -> None:
        """A step of a training that trains nothing."""

    views, _ = rate("views alone", _views(training), nothing)
    loader, _ = rate("loader alone", training.batches(), nothing)
    synthetic, _ = rate("steps on synthetic data", itertools.repeat(training.synthetic_batch()), training.step)
    real, waiting = rate("steps on real data", training.batches(), training.step)
    return Rates(loader, views, synthetic, real, waiting)


def warm_up(steps: Iterator, seconds: float) -> None:
    """Take WARM_UP steps, but begin none after `seconds`: where one takes longer, the first is enough."""
    end = time.perf_counter() + seconds
    for _ in itertools.islice(steps, WARM_UP):
        if time.perf_counter() >= end:
            break


def _views(training: Training) -> Iterator[tuple[Tensor, Tensor]]:
    """Views of the same decoded images, as the loader makes them."""
    loader = training.data.train
    spec, batch = loader.spec, loader.backend.fetch(np.arange(loader.global_batch))
    batch = dataclasses.replace(batch, pixels=batch.pixels.to(training.device))
    for epoch in itertools.count():
        yield spec.views(batch, spec.table(batch, loader.seed, epoch)), batch.labels


def _place(config: Config, share: Config, device: torch.device) -> Place:
    data = config.data
    if data.backend == "folder":
        return Place(device.type == "cuda", share.data.workers, data.backend, fits=False, jpeg=False, large=False)
    records = open_records(data.train_file)
    try:
        pixels = records.heights.astype(np.int64) * records.widths
        jpeg, large = bool((records.modes == JPG).any()), float(np.sqrt(pixels.mean())) > LARGE * data.size
    finally:
        records.close()
    try:
        choose_place(BackendOptions(device=device), int(3 * pixels.sum()), data.train_file)
        fits = True
    except UserError:
        fits = False
    return Place(device.type == "cuda", share.data.workers, data.backend, fits, jpeg, large)


def verdict(rates: Rates, place: Place) -> str:
    """What holds the training up, and what to do about it, in one sentence."""
    reach = rates.real / rates.synthetic
    if reach >= ENOUGH:
        return (
            f"compute-bound: real data reach {min(reach, 1):.0%} of the rate on synthetic data, and the loader alone "
            f"could feed {rates.loader / rates.synthetic:.1f} times as much"
        )
    remedy = _remedy(rates, place)
    if rates.loader < rates.synthetic:
        unit = "GPU" if place.on_gpu else "process"
        needs = math.ceil(place.cores * rates.synthetic / rates.loader)
        return f"data-bound: needs {needs} cores per {unit}, has {place.cores}; {remedy}"
    shared = "the GPU" if place.on_gpu else f"{place.cores} core{'s' * (place.cores != 1)}"
    return (
        f"shared: real data reach {reach:.0%} of the rate on synthetic data, as the loader and the network share "
        f"{shared}; {remedy}"
    )


def _remedy(rates: Rates, place: Place) -> str:
    decoding = rates.loader < 0.8 * rates.views  # else the views take the time, and decoding less would not help
    if decoding and place.fits and place.backend != "resident":
        return "try --data.backend resident"
    if decoding and place.on_gpu and place.jpeg and place.backend == "cpu":
        return "try --data.backend nvjpeg"
    if decoding and place.large:
        return "convert with a smaller --max-resolution"
    if place.backend == "folder":
        return "convert the images and use --data.backend cpu"
    return "give each process more cores" if not place.on_gpu or rates.loader < rates.synthetic else "no flag helps"
