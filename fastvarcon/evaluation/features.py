"""Features of a dataset under a frozen encoder: extracted once, cached in the run folder."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn as nn
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

import fastvarcon
from fastvarcon.config import DataConfig
from fastvarcon.data.backends import Backend
from fastvarcon.data.loader import Loader, ViewSpec
from fastvarcon.errors import UserError

BATCH = 256  # images at a time; features do not depend on it
PIXEL_SIDE = 32  # raw-pixel features are views of at most this side


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

    The encoder is used in eval mode and left as it was. `on_batch` is told the number of images of each batch.
    """
    was_training = encoder.training
    encoder.eval()
    features, labels = [], []
    try:
        for views, batch_labels, _ in loader:
            features.append(encoder(views.to(device)).float().flatten(1).cpu())
            labels.append(batch_labels.cpu())
            on_batch(len(batch_labels))
    finally:
        encoder.train(was_training)
    return torch.cat(features), torch.cat(labels)


def eval_spec(data: DataConfig) -> ViewSpec:
    """Evaluation views of a run: resize, centre crop, normalise."""
    return ViewSpec(
        size=data.size,
        mean=data.mean,
        std=data.std,
        policy="eval",
        num_views=1,
        resize=data.eval_resize,
        interpolation=data.interpolation,
    )


def encoder_features(
    encoder: nn.Module,
    encoder_id: str,
    backend: Backend,
    data: DataConfig,
    device: torch.device,
    cache: Path,
    on_batch: Callable[[int], None] = lambda images: None,
) -> Features:
    """Features of all images of `backend`, from the cache folder if the same encoder has seen the same data before.

    `encoder_id` is the SHA-256 of the encoder's file. The cache holds the features of one encoder.
    """
    recipe = f"{fastvarcon.__version__}|{backend.fingerprint}|{eval_spec(data)}"
    path = cache / f"{encoder_id[:16]}-{hashlib.sha256(recipe.encode()).hexdigest()[:16]}.safetensors"
    if path.exists():
        try:
            stored = load_file(path)
            return Features(stored["x"], stored["labels"], backend.classes)
        except (SafetensorError, KeyError, OSError):
            path.unlink(missing_ok=True)  # torn by a crash of the disk: extract again
    with Loader(backend, eval_spec(data), global_batch=BATCH, train=False, device=device) as loader:
        x, labels = extract(encoder, loader, device, on_batch)
    cache.mkdir(parents=True, exist_ok=True)
    for other in cache.glob("*.safetensors"):
        if not other.name.startswith(encoder_id[:16]):  # of an earlier encoder: nobody will ask for it again
            other.unlink(missing_ok=True)
    aside = path.with_name(f"{path.name}.{os.getpid()}.partial")
    save_file({"x": x, "labels": labels}, aside)
    aside.replace(path)
    return Features(x, labels, backend.classes)


def pixel_features(
    backend: Backend, data: DataConfig, on_batch: Callable[[int], None] = lambda images: None
) -> Features:
    """Normalised pixels of the evaluation views, shrunk to at most PIXEL_SIDE: the floor an encoder must beat."""
    side = min(data.size, PIXEL_SIDE)
    resize = round(data.eval_resize * side / data.size)
    spec = dataclasses.replace(eval_spec(data), size=side, resize=max(side, resize))
    with Loader(backend, spec, global_batch=BATCH, train=False) as loader:
        x, labels = extract(nn.Identity(), loader, torch.device("cpu"), on_batch)
    return Features(x, labels, backend.classes)


def check_pair(train: Features, val: Features) -> None:
    """Raise UserError unless both sets are labelled and have the same classes."""
    if train.classes != val.classes:
        missing = sorted(set(train.classes) ^ set(val.classes))
        detail = f"{len(train.classes)} and {len(val.classes)} classes" + (
            f", {missing[0]!r} in only one" if missing else ""
        )
        raise UserError(
            f"the training and the held-out file have different classes ({detail}): "
            "convert them from folders with the same class names"
        )
    for features, flag in ((train, "--data.train"), (val, "--data.val")):
        if bool((features.labels < 0).any()):
            raise UserError(f"the file of {flag} has unlabelled images: a score needs labels")
