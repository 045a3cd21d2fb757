"""Our training step as competitors: on real data, on data that is already there, and the encoder's part of it alone.

The step is the trainer's own: processes, data, model, optimiser and loss are set up by `training.trainer` itself.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import io
import itertools
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from fastvarcon.bench.steps import Steps
from fastvarcon.config import Config
from fastvarcon.run_folder import RunFolder
from fastvarcon.training.compiled import compile_network
from fastvarcon.training.data import RunData
from fastvarcon.training.distributed import make_accelerator, own_accelerate_state
from fastvarcon.training.trainer import Run


@dataclass(frozen=True)
class Job:
    config: Config
    images: Path
    """The training images as a folder, for the reference."""
    workers: int
    """Decoding threads or processes."""


class Training:
    """One process of a training, ready to step; a context manager. All its views are of the full size."""

    def __init__(self, config: Config):
        train = dataclasses.replace(config.train, resolution="", trackers="", profile=0)
        config = dataclasses.replace(config, data=dataclasses.replace(config.data, val=None), train=train)
        with contextlib.ExitStack() as stack:
            stack.enter_context(own_accelerate_state())
            self.accelerator = make_accelerator(config.train)
            self.device = self.accelerator.device
            self.data = stack.enter_context(RunData(config, self.accelerator))
            folder = RunFolder(Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fastvarcon-bench-"))))
            with contextlib.redirect_stdout(io.StringIO()):  # the progress bar of a training is not for here
                self._run = Run(config, folder, self.accelerator, self.data)
            if self._run.log is not None:
                stack.callback(self._run.log.close)
            self._run.model.train()
            self._stack = stack.pop_all()

    def step(self, views: Tensor, labels: Tensor) -> None:
        """What the trainer does with a batch; the device may still be at it afterwards."""
        self._run.update(views, labels)

    def loss(self) -> float:
        """Mean of the steps since the last call. Waits for the device."""
        return self._run.meter.read()["loss"]

    def batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Views and labels of the training images, epoch after epoch."""
        for epoch in itertools.count():
            self.data.train.set_epoch(epoch)
            for views, labels, _ in self.data.train:
                yield views, labels

    def synthetic_batch(self) -> tuple[Tensor, Tensor]:
        """Random views and labels such as the loader hands out, on the device."""
        spec, count = self.data.train.spec, self.data.train.global_batch
        shape = (spec.num_views * count, 3, spec.size, spec.size)
        views = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(self.device, spec.dtype)
        labels = torch.arange(count, device=self.device) % len(self.data.classes)
        return views.contiguous(memory_format=torch.channels_last), labels

    def encoder_pass(self, views: Tensor) -> Callable[[], None]:
        """Forward and backward of a copy of the encoder alone, in the precision of the training."""
        encoder = copy.deepcopy(self._run.network.encoder).train()
        compile_network(encoder, self._run.config.train.compile)
        with self.accelerator.autocast():
            gradient = torch.randn_like(encoder(views))

        def run() -> None:
            encoder.zero_grad(set_to_none=True)
            with self.accelerator.autocast():
                features = encoder(views)
            features.backward(gradient)

        return run

    def __enter__(self) -> Training:
        return self

    def __exit__(self, *exception) -> None:
        self._stack.close()


def real(job: Job) -> Iterator[int]:
    training = Training(job.config)
    return Steps(training.batches(), training.step, training.device)


def synthetic(job: Job) -> Iterator[int]:
    """The upper bound: the same batch, again and again, nothing to wait for."""
    training = Training(job.config)
    return Steps(itertools.repeat(training.synthetic_batch()), training.step, training.device)


class EncoderShare:
    """Whole steps and the encoder's forward and backward in turn, on the same batch, so that a slow spell of the
    machine hits both. A few of each at a time: the first after a change finds the memory of the other, and is not
    timed; behind it the host of a GPU runs ahead as it does in a training."""

    def __init__(self, job: Job):
        self._training = Training(job.config)
        self._device = self._training.device
        self._batch = self._training.synthetic_batch()
        self._encode = self._training.encoder_pass(self._batch[0])
        self._repeats = 8 if self._device.type == "cuda" else 3
        self._seconds: list[tuple[float, float]] = []

    def __iter__(self) -> Iterator[int]:
        return self

    def __next__(self) -> int:
        self._seconds.append((self._timed(lambda: self._training.step(*self._batch)), self._timed(self._encode)))
        return self._repeats * len(self._batch[0])

    def figures(self) -> dict[str, float]:
        """The share of a step that is not the encoder's, and the encoder's own rate, since the last call: medians."""
        overhead = statistics.median(1 - encoder / whole for whole, encoder in self._seconds)
        seconds = statistics.median(encoder for _, encoder in self._seconds)
        self._seconds.clear()
        return {"overhead": overhead, "views_per_second": self._repeats * len(self._batch[0]) / seconds}

    def _timed(self, work: Callable[[], None]) -> float:
        work()
        self._wait()
        start = time.perf_counter()
        for _ in range(self._repeats):
            work()
        self._wait()
        return time.perf_counter() - start

    def _wait(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
