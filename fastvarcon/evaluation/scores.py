"""`fastvarcon eval`: score a run folder and write eval/NAME.json and the headline of summary.json."""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from fastvarcon.config import Config
from fastvarcon.data.backends import open_backend
from fastvarcon.evaluation import features, knn, linear
from fastvarcon.models.encoders import load_encoder
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
    ks: tuple[int, ...] = knn.DEFAULT_KS
    pixels: bool = False
    """Score raw pixels in the place of the encoder's features."""


def evaluate(name: str, request: EvalRequest) -> dict:
    """Run evaluation `name`, "linear" or "knn", and return what it wrote. UserError for inputs that do not fit."""
    start = time.perf_counter()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    train, val = _features(request, device)
    features.check_pair(train, val)
    tensors = [t.to(device) for t in (train.x, train.labels, val.x, val.labels)]
    score = {"linear": _linear, "knn": _knn}[name]
    result = {
        "name": name,
        "features": "pixels" if request.pixels else "encoder",
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
    folder = RunFolder(request.run)
    write_json(folder.path / "eval" / f"{name}{'-pixels' if request.pixels else ''}.json", result)
    if not request.pixels:
        summary = json.loads(folder.summary.read_text(encoding="utf-8")) if folder.summary.exists() else {}
        write_json(folder.summary, {**summary, f"{name}_top1": result["top1"]})
    return result


def _features(request: EvalRequest, device: torch.device) -> tuple[features.Features, features.Features]:
    folder = RunFolder(request.run)
    data = Config.load(folder.config).data
    encoder = None if request.pixels else load_encoder(request.run).to(device)
    pair = []
    what = "pixels" if request.pixels else "features"
    for path in (request.train, request.val):
        backend = open_backend(request.backend, path, request.workers)
        try:
            with Counter(f"{what} of {path.name}", len(backend)) as counter:
                if encoder is None:
                    pair.append(features.pixel_features(backend, data, counter.advance))
                else:
                    encoder_id = hashlib.sha256(folder.encoder.read_bytes()).hexdigest()
                    pair.append(
                        features.encoder_features(
                            encoder, encoder_id, backend, data, device, folder.path / "features", counter.advance
                        )
                    )
        finally:
            backend.close()
    return pair[0], pair[1]


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
    predicted = knn.knn_predict(train_x, train_y, val_x, num_classes, request.ks)
    by_k = {str(k): knn.accuracy(p, val_y) for k, p in predicted.items()}
    k = knn.headline_k(request.ks)
    return {"top1": by_k[str(k)], "k": k, "top1_by_k": by_k, "protocol": f"cosine kNN, majority vote, k = {k}"}
