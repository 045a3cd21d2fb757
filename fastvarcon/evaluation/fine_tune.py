"""Fine-tuning: the whole network and a new linear layer, by SGD with momentum and cosine decay on cropped and flipped
images. The learning rate is chosen on a split of the training images; then all of them are used. On the first process.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import math

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F

from fastvarcon.data.backends import Backend
from fastvarcon.data.loader import Loader
from fastvarcon.errors import UserError
from fastvarcon.evaluation.features import batch_of
from fastvarcon.evaluation.images import Images, eval_spec
from fastvarcon.evaluation.job import Job
from fastvarcon.evaluation.logistic import HELD_BACK
from fastvarcon.evaluation.options import Transfer
from fastvarcon.evaluation.scores import top_k
from fastvarcon.evaluation.splits import stratified_split
from fastvarcon.progress import Counter

LR_GRID = (0.003, 0.01, 0.03)
MOMENTUM, WEIGHT_DECAY = 0.9, 1e-4
POLICY = "crop-flip"


def fine_tune(job: Job, train_images: Images, val_images: Images, num_classes: int, options: Transfer) -> dict:
    """Held-out accuracy of the fine-tuned network and how its learning rate was chosen."""
    encoder, _ = job.extractor.encoder(job.target, job.data.size)
    with contextlib.ExitStack() as opened:
        train, val = (one.open(job.workers, job.device, job.data) for one in (train_images, val_images))
        opened.callback(train.close)
        opened.callback(val.close)
        labels = torch.from_numpy(np.asarray(train.labels, dtype=np.int64))
        parts = stratified_split(labels, HELD_BACK, torch.Generator().manual_seed(options.seed))
        if len(parts[0]) < 2:
            raise UserError(f"{train_images.path} has {len(train)} images: fine-tuning needs more of them")
        inside, held = (part.sort().values.numpy() for part in parts)
        scores = {}
        for lr in LR_GRID:
            network = _trained(job, encoder, train, inside, lr, num_classes, options)
            scores[lr] = _score(job, network, train, held)
        best = max(LR_GRID, key=lambda lr: scores[lr])
        network = _trained(job, encoder, train, np.arange(len(train)), best, num_classes, options)
        top1 = _score(job, network, val, np.arange(len(val)))
    return {
        "fine_tuned_top1": top1,
        "fine_tune_lr": best,
        "fine_tune_split_top1": {f"{lr:g}": score for lr, score in scores.items()},
        "fine_tune_epochs": options.fine_tune_epochs,
    }


def _trained(
    job: Job, encoder: nn.Module, backend: Backend, ids: np.ndarray, lr: float, num_classes: int, options: Transfer
) -> nn.Module:
    """A copy of the encoder with a linear layer, trained on the images `ids`."""
    data, size = job.data, job.data.size
    torch.manual_seed(options.seed)
    with torch.no_grad():
        dim = encoder(torch.zeros(1, 3, size, size, device=job.device)).flatten(1).shape[1]
    head = nn.Linear(dim, num_classes).to(job.device)
    network = nn.Sequential(copy.deepcopy(encoder), nn.Flatten(1), head).train()
    optimizer = torch.optim.SGD(network.parameters(), lr, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY)
    spec = dataclasses.replace(eval_spec(data), policy=POLICY)
    batch, epochs = min(options.fine_tune_batch, len(ids)), options.fine_tune_epochs
    loader = Loader(backend, spec, global_batch=batch, seed=options.seed, subset=ids, device=job.device, epochs=epochs)
    step, steps = 0, epochs * len(loader)
    with loader, Counter(f"fine-tuning at {lr:g}", steps * batch) as counter:
        for epoch in range(epochs):
            loader.set_epoch(epoch)
            for views, labels, _ in loader:
                optimizer.param_groups[0]["lr"] = lr * 0.5 * (1 + math.cos(math.pi * step / steps))
                F.cross_entropy(network(views), labels).backward()
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
                step += 1
                counter.advance(batch)
    return network.eval()


@torch.no_grad()
def _score(job: Job, network: nn.Module, backend: Backend, ids: np.ndarray) -> float:
    """Accuracy on the evaluation views of the images `ids`."""
    hits = 0.0
    batch = batch_of(job.data)
    with Loader(backend, eval_spec(job.data), global_batch=batch, train=False, subset=ids, device=job.device) as loader:
        for views, labels, _ in loader:
            hits += top_k(network(views), labels, 1) * len(labels)
    return hits / len(ids)
