"""Other data sets: L2 logistic regression on frozen features, its strength chosen on a split of the training images;
and, where asked for, fine-tuning of the whole network."""

from __future__ import annotations

import statistics

import torch
from torch import Tensor

from fastvarcon.evaluation import logistic
from fastvarcon.evaluation.features import counts
from fastvarcon.evaluation.fine_tune import fine_tune
from fastvarcon.evaluation.images import Images
from fastvarcon.evaluation.job import Job
from fastvarcon.evaluation.options import Transfer
from fastvarcon.evaluation.scores import top_k


def run(job: Job, options: Transfer) -> dict:
    pairs = [
        tuple(Images(path, job.data.backend) for path in options.datasets[i : i + 2])
        for i in range(0, len(options.datasets), 2)
    ]
    rows = [_dataset(job, options, *pair) for pair in pairs]
    top1 = statistics.mean(row["logistic_top1"] for row in rows)
    return {
        "top1": top1,
        "rows": rows,
        "protocol": f"L2 logistic regression (L-BFGS) on frozen features, strength chosen on {logistic.HELD_BACK:.0%} "
        f"of the training images; mean over data sets",
        "num_val": sum(row["num_val"] for row in rows),
        "lines": [
            f"{row['val']}: logistic regression {row['logistic_top1']:.2%}, mean over classes "
            f"{row['logistic_class_mean']:.2%}"
            + (f", fine-tuned {row['fine_tuned_top1']:.2%}" if "fine_tuned_top1" in row else "")
            for row in rows
        ],
    }


def _dataset(job: Job, options: Transfer, train_images: Images, val_images: Images) -> dict:
    train_images, val_images = job.alike(train_images, val_images)
    train, val = job.pair(train_images, val_images)
    num_classes = len(train.classes)
    chosen = logistic.fit_chosen(train.x.to(job.device), train.labels.to(job.device), num_classes, options.seed)
    logits = chosen.logits(val.x.to(job.device)).cpu()
    row = {
        "train": str(train_images.path),
        "val": str(val_images.path),
        **counts(train, val),
        "logistic_top1": top_k(logits, val.labels, 1),
        "logistic_class_mean": class_mean(logits.argmax(1), val.labels, num_classes),
        "strength": chosen.strength,
        "train_split_top1": chosen.split_top1,
    }
    if options.fine_tune:
        row |= fine_tune(job, train_images, val_images, num_classes, options)
    return row


def class_mean(predicted: Tensor, labels: Tensor, num_classes: int) -> float:
    """Mean over the classes present of the accuracy within each."""
    hits = torch.bincount(labels[predicted == labels], minlength=num_classes)
    totals = torch.bincount(labels, minlength=num_classes)
    return (hits[totals > 0] / totals[totals > 0]).double().mean().item()
