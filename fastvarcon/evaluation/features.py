"""Features of images under a frozen encoder: extracted once, by all processes, and cached.

The batches are cut the same way for every number of processes: batch b is images 256 b to 256 b + 255 (fewer at a time
where they are large), and a process takes a run of whole batches. So an image is computed with the same neighbours
wherever that happens, no image is repeated to fill a batch, and the features are those of one process.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn as nn
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

import fastvarcon
from fastvarcon.config import DataConfig
from fastvarcon.data.backends import Backend
from fastvarcon.data.class_names import class_numbers
from fastvarcon.data.loader import Loader
from fastvarcon.errors import UserError
from fastvarcon.evaluation.images import Images, eval_spec
from fastvarcon.evaluation.processes import Processes
from fastvarcon.evaluation.target import Target
from fastvarcon.progress import Counter
from fastvarcon.terminal import warn
from fastvarcon.whole_file import NotWritten, whole_file

__all__ = ["BATCH", "Extractor", "Features", "check_labels", "check_pair", "counts", "eval_spec", "extract"]
BATCH, BATCH_SIDE = 256, 512
"""Images at a time, fewer where they are larger than so many pixels."""


@dataclass(frozen=True)
class Features:
    x: Tensor
    """[n, D] float32, host, in dataset order."""
    labels: Tensor
    """[n] int64."""
    classes: list[str]


@torch.no_grad()
def extract(
    encoder: nn.Module, loader: Loader, device: torch.device, on_batch: Callable[[int], None] = lambda images: None
) -> tuple[Tensor, Tensor]:
    """Features [n, D] float32 and labels [n] on the host, for every image of `loader` in its order.

    The encoder is used in eval mode and left as it was. `on_batch` is told the number of images of each batch. On a
    GPU the copy of a batch overlaps with the work on the next one.
    """
    was_training = encoder.training
    encoder.eval()
    features, labels = [], []
    try:
        for views, batch_labels, _ in loader:
            made = encoder(views.to(device)).float().flatten(1)
            features.append(_to_host(made))
            labels.append(_to_host(batch_labels))
            on_batch(len(batch_labels))
        if device.type == "cuda":
            torch.cuda.synchronize(device)
    finally:
        encoder.train(was_training)
    return torch.cat(features), torch.cat(labels)


def _to_host(made: Tensor) -> Tensor:
    if made.device.type != "cuda":
        return made
    return torch.empty(made.shape, dtype=made.dtype, pin_memory=True).copy_(made, non_blocking=True)


@dataclass(frozen=True)
class Order:
    """One set of features to extract."""

    target: Target
    images: Images
    data: DataConfig


class Extractor:
    """Makes features with all processes. The first one asks; the others serve until it closes.

    Collectives of an extraction: one broadcast of the order, one message with the rows of each other process.

    Args:
        cache: folder for the features of `main`, the one encoder that is asked for again and again.
    """

    def __init__(self, processes: Processes, workers: int, cache: Path | None = None, main: Target | None = None):
        self._processes, self._workers = processes, workers
        self._cache, self._main = cache, main
        self._built: tuple[tuple[Target, int], nn.Module, str] | None = None

    def encoder(self, target: Target, size: int) -> tuple[nn.Module, str]:
        """The encoder on this process's device, in eval mode, and the SHA-256 that tells its weights."""
        if self._built is None or self._built[0] != (target, size):
            encoder, digest = target.build(size)
            encoder = encoder.to(self._processes.device).to(memory_format=torch.channels_last)
            self._built = ((target, size), encoder, digest)
        return self._built[1:]

    def open(self, order: Order) -> Backend:
        """The images of an order, not yet decoded."""
        return order.images.open(self._workers, self._processes.device, order.data)

    def features(self, order: Order) -> Features:
        """On the first process. Raises UserError for files, weights and sizes that do not fit."""
        _, digest = self.encoder(order.target, order.data.size)
        backend = self.open(order)
        try:
            path = self._cache_path(order, digest, backend)
            labels = torch.from_numpy(np.asarray(backend.labels, dtype=np.int64))
            x = _load(path, len(labels)) if path is not None else None
            if x is None:
                self._processes.send(order)
                x = self._processes.gather_rows(
                    self._extract(order, backend), _bounds(len(backend), order, self._processes)
                )
                check_finite(x, order)
                if path is not None:
                    self._keep(path, x, labels)
            return Features(x, labels, backend.classes)
        finally:
            backend.close()

    def serve(self) -> None:
        """On every other process: do what the first one asks for, until it is done."""
        while (order := self._processes.receive()) is not None:
            backend = self.open(order)
            try:
                self._processes.give_rows(self._extract(order, backend))
            finally:
                backend.close()

    def _extract(self, order: Order, backend: Backend) -> Tensor:
        """Features of this process's images."""
        encoder, _ = self.encoder(order.target, order.data.size)
        first, last = _bounds(len(backend), order, self._processes)[self._processes.rank]
        if first == last:
            return torch.zeros(0, 0)
        name = order.images.path.name if order.images.corruption is None else order.images.corruption
        what = "pixels" if order.target.kind == "pixels" else "features"
        loader = Loader(
            backend,
            order.images.spec(order.data),
            global_batch=batch_of(order.data),
            train=False,
            subset=np.arange(first, last),
            seed=order.images.seed,
            device=self._processes.device,
        )
        loader.set_epoch(order.images.epoch)
        with loader, Counter(f"{what} of {name}", last - first) as counter:
            advance = counter.advance if self._processes.rank == 0 else lambda images: None
            return extract(encoder, loader, self._processes.device, advance)[0]

    def _cache_path(self, order: Order, digest: str, backend: Backend) -> Path | None:
        """None for features that nobody will ask for again: other encoders, augmented and corrupted images."""
        plain = order.images.corruption is None and order.images.policy == "eval"
        if self._cache is None or order.target != self._main or order.target.kind == "pixels" or not plain:
            return None
        clipped = "|clipped" * (order.data.interpolation != "bilinear")  # earlier versions did not
        recipe = f"{fastvarcon.__version__}|{backend.fingerprint}|{eval_spec(order.data)}{clipped}"
        return self._cache / f"{digest[:16]}-{hashlib.sha256(recipe.encode()).hexdigest()[:16]}.safetensors"

    def _keep(self, path: Path, x: Tensor, labels: Tensor) -> None:
        """In the cache, in the place of features of an earlier encoder, which nobody will ask for again."""
        try:
            with whole_file(path) as aside:
                for other in path.parent.glob("*.safetensors"):
                    if not other.name.startswith(path.name[:16]):
                        other.unlink(missing_ok=True)
                try:
                    save_file({"x": x, "labels": labels}, aside)
                except SafetensorError as error:  # a full disk, say
                    raise OSError(str(error)) from None
        except NotWritten as error:
            warn(f"{error}; the features are not kept, the next evaluation will make them again")


def batch_of(data: DataConfig) -> int:
    """Images at a time, so that their views take 200 MB at most."""
    return max(1, min(BATCH, BATCH * BATCH_SIDE**2 // data.size**2))


def _bounds(count: int, order: Order, processes: Processes) -> list[tuple[int, int]]:
    """First and last + 1 image of every process: whole batches, shared as evenly as they go."""
    size, world = batch_of(order.data), processes.world_size
    batches = -(-count // size)
    cuts = [min(count, size * (batches * rank // world)) for rank in range(world + 1)]
    return list(itertools.pairwise(cuts))


def _load(path: Path, count: int) -> Tensor | None:
    """Features of `count` images; None where they are not kept, or their file is damaged: they are made again."""
    try:
        x = load_file(path)["x"] if path.exists() else None
    except (SafetensorError, KeyError, OSError, ValueError, RuntimeError):
        return None
    whole = x is not None and x.ndim == 2 and len(x) == count and x.dtype == torch.float32 and finite_rows(x).all()
    return x if whole else None


def check_finite(x: Tensor, order: Order) -> None:
    """Raise UserError, with the first image, for features [n, D] that are not finite, or too large to have a length."""
    bad = (~finite_rows(x)).nonzero()[:, 0]
    if len(bad):
        raise UserError(
            f"{order.target.title} makes features that are not finite of {len(bad):,} of the {len(x):,} images in "
            f"{order.images.path}, image {int(bad[0])} first: its weights are damaged or overflow, give others"
        )


def finite_rows(x: Tensor) -> Tensor:
    """[n] bool: the length of a row of [n, D] is a number."""
    return torch.linalg.vector_norm(x, dim=1).isfinite()


def check_pair(train: Features | Backend, val: Features | Backend) -> None:
    """Raise UserError unless both sets are labelled and training has all classes of the held-out images, by name."""
    class_numbers(val.classes, train.classes)
    check_labels(train, "--data.train")
    check_labels(val, "--data.val")


def counts(train: Features, val: Features) -> dict[str, int]:
    """What a score is based on."""
    return {
        "num_train": len(train.x),
        "num_val": len(val.x),
        "num_classes": len(val.classes),
        "feature_dim": val.x.shape[1],
    }


def check_labels(images: Features | Backend, flag: str) -> None:
    if bool((images.labels < 0).any()):
        raise UserError(f"the file of {flag} has unlabelled images: a score needs labels")
