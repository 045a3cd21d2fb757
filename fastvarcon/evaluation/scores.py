"""`fastvarcon eval`: score a run folder and write eval/NAME.json and the headline of summary.json."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn as nn

from fastvarcon.config import Config, DataConfig
from fastvarcon.data.backends import open_backend
from fastvarcon.evaluation import features, knn, linear
from fastvarcon.models.encoders import identify_encoder
from fastvarcon.progress import Counter
from fastvarcon.run_folder import RunFolder, write_json


@dataclass(frozen=True)
class EvalRequest:
    run: Path
    train: Path
    val: Path
    backend: str
    workers: int
    seed: int
    command: str
    """What the user typed, for the record."""
    ks: tuple[int, ...] | None = None
    """Numbers of neighbours; None = those of knn.DEFAULT_KS that the training set can give."""
    pixels: bool = False
    """Score raw pixels in the place of the encoder's features."""


def evaluate(name: str, request: EvalRequest) -> dict:
    """Run evaluation `name`, "linear" or "knn", and return what it wrote. UserError for inputs that do not fit."""
    start = time.perf_counter()
    folder = RunFolder(request.run)
    data = Config.load(folder.config).data
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    encoder, encoder_id = (None, None) if request.pixels else identify_encoder(request.run)
    if encoder is not None:
        encoder = encoder.to(device)
    train, val = (_features(path, request, data, encoder, encoder_id, device) for path in (request.train, request.val))
    features.check_pair(train, val)
    tensors = [t.to(device) for t in (train.x, train.labels, val.x, val.labels)]
    score = {"linear": _linear, "knn": _knn}[name]
    result = {
        "name": name,
        "features": "pixels" if request.pixels else "encoder",
        "encoder_sha256": encoder_id,
        **score(*tensors, len(train.classes), request),
        "num_train": len(train.x),
        "num_val": len(val.x),
        "num_classes": len(train.classes),
        "feature_dim": train.x.shape[1],
        "data.train": str(request.train),
        "data.val": str(request.val),
        "device": device.type,
        "command": request.command,
        "seed": request.seed,
        "seconds": round(time.perf_counter() - start, 3),
    }
    write_json(folder.path / "eval" / f"{name}{'-pixels' if request.pixels else ''}.json", result)
    if not request.pixels:
        folder.update_summary({f"{name}_top1": result["top1"]})
    return result


def _features(
    path: Path, request: EvalRequest, data: DataConfig, encoder: nn.Module | None, encoder_id: str | None, device
) -> features.Features:
    """Of one dataset; of its raw pixels if there is no encoder."""
    decode_on = device if encoder is not None else "cpu"  # raw pixels are collected on the host
    backend = open_backend(request.backend, path, request.workers, device=decode_on)
    try:
        with Counter(f"{'pixels' if encoder is None else 'features'} of {path.name}", len(backend)) as counter:
            if encoder is None:
                return features.pixel_features(backend, data, counter.advance)
            cache = request.run / "features"
            return features.encoder_features(encoder, encoder_id, backend, data, device, cache, counter.advance)
    finally:
        backend.close()


def _linear(train_x, train_y, val_x, val_y, num_classes: int, request: EvalRequest) -> dict:
    probe = linear.linear_probe(train_x, train_y, val_x, val_y, num_classes, request.seed)
    return {
        "top1": probe.top1,
        "top5": probe.top5,
        "lr": probe.lr,
        "train_split_top1_by_lr": {str(lr): top1 for lr, top1 in probe.split_top1.items()},
        "protocol": f"softmax regression, {linear.EPOCHS} epochs, learning rate chosen on "
        f"{linear.HELD_BACK:.0%} of the training images",
    }


def _knn(train_x, train_y, val_x, val_y, num_classes: int, request: EvalRequest) -> dict:
    ks = request.ks or tuple(k for k in knn.DEFAULT_KS if k <= len(train_x))
    predicted = knn.knn_predict(train_x, train_y, val_x, num_classes, ks)
    by_k = {str(k): knn.accuracy(p, val_y) for k, p in predicted.items()}
    k = knn.headline_k(ks)
    return {"top1": by_k[str(k)], "k": k, "top1_by_k": by_k, "protocol": f"cosine kNN, majority vote, k = {k}"}
