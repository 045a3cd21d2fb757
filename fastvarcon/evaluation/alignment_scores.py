"""`fastvarcon eval alignment`: how alike two encoders are on the held-out images.

The figures: docs/maths/geometry.md#alignment-of-two-encoders.
"""

from __future__ import annotations

import torch

from fastvarcon.errors import UserError
from fastvarcon.evaluation.alignment import AlignmentMoments, rsa_spearman, weight_gap
from fastvarcon.evaluation.job import Job
from fastvarcon.evaluation.options import Alignment
from fastvarcon.evaluation.target import resolve

BATCH = 8192


def run(job: Job, options: Alignment) -> dict:
    other = resolve(options.against, options.against_weights)
    images = job.val_images
    x, y = job.features(images).x, job.features(images, other).x
    if len(x) < 4:
        raise UserError(f"--data.val has {len(x)} images: the unbiased CKA needs four")
    moments = AlignmentMoments(x.shape[1], y.shape[1])
    for parts in zip(x.split(BATCH), y.split(BATCH), strict=True):
        moments.add(*parts)
    chosen = torch.randperm(len(x), generator=torch.Generator().manual_seed(options.seed))[: options.images]
    figures = {
        "cka": moments.cka(),
        "cka_unbiased": moments.cka(unbiased=True),
        "rsa": moments.rsa(),
        "rsa_spearman": rsa_spearman(x[chosen], y[chosen]),
    }
    states = [job.extractor.encoder(target, job.data.size)[0].state_dict() for target in (job.target, other)]
    same = {name: t.shape for name, t in states[0].items()} == {name: t.shape for name, t in states[1].items()}
    if same:
        figures["weight_gap"] = weight_gap(*states)
    return {
        **figures,
        "against": other.title,
        "num_val": len(x),
        "protocol": f"features of {len(x)} held-out images under evaluation views; Spearman on {len(chosen)} of them"
        + ("" if same else "; other architectures have no weight gap"),
        "lines": [f"{name:<14} {value:.4f}" for name, value in figures.items()],
    }
