"""The accuracy curve of a run: held-out images, named by their neighbours among training images and by class means."""

from __future__ import annotations

import torch

from fastvarcon.errors import UserError
from fastvarcon.evaluation.features import extract
from fastvarcon.evaluation.knn import accuracy, headline_k, knn_predict, nearest_mean
from fastvarcon.models.encoders import Encoder
from fastvarcon.terminal import warn
from fastvarcon.training.data import RunData


def held_out_accuracy(encoder: Encoder, data: RunData, device: torch.device) -> dict[str, float]:
    """kNN and nearest-mean accuracy of the held-out images, fractions of 1; none where features are not finite."""
    assert data.bank is not None and data.val is not None
    bank_x, bank_y = (t.to(device) for t in extract(encoder, data.bank, device))
    val_x, val_y = (t.to(device) for t in extract(encoder, data.val, device))
    k, classes = min(headline_k((20,)), len(bank_x)), len(data.classes)
    try:
        return {
            "val_knn_top1": accuracy(knn_predict(bank_x, bank_y, val_x, classes, (k,))[k], val_y),
            "val_centroid_top1": accuracy(nearest_mean(bank_x, bank_y, val_x, classes), val_y),
        }
    except UserError as error:  # the loss is finite, or training would have ended: it goes on without this point
        warn(f"no held-out accuracy of this epoch: {error}")
        return {}
