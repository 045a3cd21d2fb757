"""`fastvarcon bench kernels --contrastive`: forward and backward of SupCon, ours and what people use, in one run.

SupCon stands for the family: its members differ in masks. Rows, times and errors are taken as for VarCon; the classes
only label the rows, all of which are keys.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from fastvarcon.bench.varcon import BASELINE, PEAK_BYTES, PEAK_FLOPS, Form, Job, Subject
from fastvarcon.losses.contrastive import ContrastiveLoss

TAU = 0.1


def naive(z: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """As it is usually written: one N x N matrix after the other."""
    z = z.float()
    x = z @ z.T / TAU
    itself = torch.eye(len(z), dtype=torch.bool, device=z.device)
    positive = (labels[:, None] == labels) & ~itself
    logp = x - x.masked_fill(itself, -torch.inf).logsumexp(1, keepdim=True)
    count = positive.sum(1)
    rows = -(logp * positive).sum(1) / count.clamp(min=1)
    return rows.sum() / (count > 0).sum()


def metric_learning(z: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    from pytorch_metric_learning.distances import DotProductSimilarity
    from pytorch_metric_learning.losses import SupConLoss

    similarity = DotProductSimilarity(normalize_embeddings=False)  # rows are unit vectors, as everybody gets them
    return SupConLoss(temperature=TAU, distance=similarity)(z.float(), labels)


def ours(backend: str, z: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    return ContrastiveLoss("supcon", num_views=1, temperature=TAU, pos="class", backend=backend)(z, labels)


def forms(device: str) -> dict[str, Form]:
    """The competitors by name."""
    found = {
        BASELINE: Form(naive),
        "reference, torch.compile": Form(naive, compiled=True),
        "pytorch-metric-learning": Form(metric_learning, waits=True),
    }
    for backend in ("closed", "triton") if device == "cuda" else ("closed",):
        found[f"fastvarcon {backend}"] = Form(functools.partial(ours, backend))
    return found


def truth(z: Tensor, labels: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
    """(mean loss, its gradient) in float64, in chunks."""
    z = z.detach().double().requires_grad_()
    loss = ours("closed", z, labels, num_classes)
    return loss.detach(), torch.autograd.grad(loss, z)[0]


def bound_ms(job: Job) -> float:
    """6 N^2 D flops, or reading z and writing dz, on an H200: whatever takes longer."""
    flops, moved = 6 * job.rows**2 * job.dim, 3 * job.rows * job.dim * (4 if job.dtype == "float32" else 2)
    return 1000 * max(flops / PEAK_FLOPS, moved / PEAK_BYTES)


CONTRASTIVE = Subject(
    "SupCon",
    forms,
    truth,
    bound_ms,
    "bound on an H200: 6NND at 790 TFLOP/s, 4.3 TB/s",
    similarities=lambda job: job.rows**2,
)
