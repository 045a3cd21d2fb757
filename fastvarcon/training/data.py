"""The loaders of a run: training images, and the held-out images of its accuracy curve."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from accelerate import Accelerator

from fastvarcon.config import Config
from fastvarcon.data.backends import Backend, open_backend
from fastvarcon.data.backends.renumbered import numbered_as
from fastvarcon.data.backends.replace import ReplaceBadImages
from fastvarcon.data.loader import Loader, ViewSpec
from fastvarcon.data.sampling import BlockShuffle, Bound, ClassBalanced, Order, Shuffle, epoch_order
from fastvarcon.errors import UserError
from fastvarcon.evaluation.features import BATCH as VAL_BATCH
from fastvarcon.evaluation.features import eval_spec
from fastvarcon.training.distributed import COMPUTE_DTYPES, cores_per_process, resolve_precision
from fastvarcon.training.resolution import epoch_sizes


class RunData:
    """Opens everything that a run reads; a context manager that closes it.

    Attributes:
        classes: class names, index = label.
        images: backend of the training images.
        train: loader of this rank's share of the training views.
        val, bank: loaders of the held-out images and of the training images that vote on them, or None.

    Raises:
        UserError: files that cannot be read or do not fit together.
    """

    def __init__(self, config: Config, accelerator: Accelerator):
        data, train = config.data, config.train
        self._backends: list[Backend] = []
        self._loaders: list[Loader] = []
        self.val: Loader | None = None
        self.bank: Loader | None = None
        try:
            images = self.images = self._open(config, accelerator, data.train_file)
            self.classes = images.classes
            if len(self.classes) < 2 and config.loss.needs_labels:
                raise UserError(
                    f"{data.train} has a single class and --loss.name {config.loss.name} needs at least two: "
                    "use simclr, dcl, dhel or kcl"
                )
            precision = resolve_precision(train.precision, accelerator.device.type == "cuda")
            spec = ViewSpec(
                size=data.size,
                mean=data.mean,
                std=data.std,
                policy=data.policy,
                interpolation=data.interpolation,
                num_views=data.num_views,
                dtype=COMPUTE_DTYPES[precision],
            )
            self.train = self._loader(
                images,
                spec,
                config,
                accelerator,
                global_batch=train.global_batch,
                order=sample_order(config, images),
                epochs=train.epochs,
                sizes=epoch_sizes(train.resolution, train.epochs, data.size),
                rank=accelerator.process_index,
                world_size=accelerator.num_processes,
            )
            if data.val is not None and train.val_every:
                opened = self._open(config, accelerator, data.val)
                held_out = numbered_as(opened, self.classes)
                if held_out is None:
                    raise UserError(
                        f"{data.val} has other classes than {data.train}: convert both from folders with the "
                        "same class names"
                    )
                voters = np.sort(epoch_order(len(images), train.seed, 0)[: train.val_bank])
                spec = eval_spec(data)
                self.bank = self._loader(
                    images, spec, config, accelerator, global_batch=VAL_BATCH, train=False, subset=voters
                )
                self.val = self._loader(held_out, spec, config, accelerator, global_batch=VAL_BATCH, train=False)
        except BaseException:
            self.close()
            raise

    def _open(self, config: Config, accelerator: Accelerator, path: Path) -> Backend:
        data = config.data
        backend = open_backend(
            data.backend,
            path,
            data.workers or cores_per_process(),
            device=accelerator.device,
            keep=data.keep,
            on_bad_image=data.on_bad_image,
        )
        self._backends.append(backend)
        reasons = {
            f"--loss.name {config.loss.name}": config.loss.needs_labels,
            "--monitor.nscl": config.monitor.nscl,
            "--sampling.bind": config.sampling.bind,
            "--sampling.per-class": config.sampling.per_class > 0,
            "the accuracy on --data.val": data.val is not None,
        }
        why = next((reason for reason, holds in reasons.items() if holds), None)
        if why is not None and (backend.labels < 0).any():
            raise UserError(
                f"{path} has unlabelled images, and {why} needs a label for each: label them or leave it out"
            )
        return backend

    def _loader(
        self, images: Backend, spec: ViewSpec, config: Config, accelerator: Accelerator, **kwargs: Any
    ) -> Loader:
        data = config.data
        self._loaders.append(
            Loader(
                images,
                spec,
                seed=config.train.seed,
                device=accelerator.device,
                prefetch=data.prefetch,
                prefetch_bytes=data.prefetch_mb << 20,
                **kwargs,
            )
        )
        return self._loaders[-1]

    @property
    def replaced_images(self) -> int:
        """Broken training images that this process has met and replaced so far."""
        return len(self.images.replaced) if isinstance(self.images, ReplaceBadImages) else 0

    def __enter__(self) -> RunData:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        for loader in self._loaders:
            loader.close()
        for backend in self._backends:
            backend.close()


def sample_order(config: Config, images: Backend) -> Order:
    """The order of training samples that the configuration asks for."""
    sampling = config.sampling
    if sampling.bind:
        return Bound(images.labels, config.train.global_batch)
    if sampling.per_class:
        return ClassBalanced(images.labels, sampling.per_class)
    if sampling.order == "block":
        return BlockShuffle(images.sizes, sampling.block_mb << 20, sampling.window_mb << 20)
    return Shuffle(len(images))
