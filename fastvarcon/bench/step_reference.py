"""The training loop that the reference recipe describes (docs/maths/varcon.md#the-reference-loop), as a competitor.

Eager network in NCHW, autocast to float16 with a gradient scaler on CUDA, two crops of every image made by PIL in
worker processes and joined on the host, DDP, features and labels of all processes gathered, the loss as dense products
with one-hot rows, and five figures read from the device in every step. Its workers live on from epoch to epoch, which
spares it what they cost the original on a small dataset.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from fastvarcon.bench.loader_competitors import two_crop_loader
from fastvarcon.bench.step_ours import Job
from fastvarcon.bench.steps import Steps
from fastvarcon.config import Config
from fastvarcon.machine import available_cores
from fastvarcon.models import ContrastiveModel


def reference(job: Job) -> Iterator[int]:
    config = job.config
    on_gpu = config.train.device != "cpu" and torch.cuda.is_available()
    device = torch.device("cuda" if on_gpu else "cpu")
    torch.set_num_threads(config.train.threads or available_cores())
    torch.backends.cudnn.benchmark = True
    meeting = Path(tempfile.mkdtemp(prefix="fastvarcon-bench-")) / "meeting"
    dist.init_process_group("nccl" if on_gpu else "gloo", init_method=f"file://{meeting}", rank=0, world_size=1)
    loop = ReferenceLoop(config, device)
    return Steps(_batches(job, on_gpu), loop.step, device)


def _batches(job: Job, on_gpu: bool) -> Iterator[tuple[Tensor, Tensor]]:
    data = job.config.data
    loader = two_crop_loader(
        job.images, data.size, job.config.train.global_batch, job.workers, data.mean, data.std, pin_memory=on_gpu
    )
    while True:
        for (first, second), labels in loader:
            yield torch.cat([first, second]), labels


class ReferenceLoop:
    """Model, optimiser and one step of the reference; the process group exists."""

    def __init__(self, config: Config, device: torch.device):
        self.loss, self.device, self.half = config.loss, device, device.type == "cuda"
        model = ContrastiveModel(config.model, size=config.data.size).to(device).train()
        self.model = nn.parallel.DistributedDataParallel(model, device_ids=[0] if self.half else None)
        train = config.train
        self.optimizer = torch.optim.SGD(
            self.model.parameters(), lr=train.lr, momentum=train.momentum, weight_decay=train.weight_decay
        )
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.half)
        self.means: dict[str, float] = {}

    def step(self, views: Tensor, labels: Tensor) -> None:
        views, labels = (tensor.to(self.device, non_blocking=True) for tensor in (views, labels))
        with torch.autocast(self.device.type, dtype=torch.float16, enabled=self.half):
            features = gathered(self.model(views), live=True)
            labels = gathered(labels.repeat(len(views) // len(labels)), live=False)
            loss, figures = dense_varcon(features, labels, self.loss.tau1, self.loss.eps)
            self.means = {name: value.item() for name, value in figures.items()}
        self.means["loss"] = loss.item()
        self.optimizer.zero_grad()
        self.scaler.scale(loss).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()


def gathered(rows: Tensor, live: bool) -> Tensor:
    """Rows of all processes; those of this one with their gradient if `live`."""
    parts = [torch.zeros_like(rows) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, rows.detach().contiguous())
    if live:
        parts[dist.get_rank()] = rows
    return torch.cat(parts)


def dense_varcon(z_ND: Tensor, labels_N: Tensor, tau1: float, eps: float) -> tuple[Tensor, dict[str, Tensor]]:
    """The VarCon loss by dense one-hot products over the classes present, and four figures of it."""
    classes, index_N = labels_N.unique(return_inverse=True)
    onehot_NK = F.one_hot(index_N, len(classes)).to(z_ND.dtype)
    w_KD = F.normalize(onehot_NK.T @ z_ND.detach(), dim=1)
    logp_NK = (z_ND @ w_KD.T / tau1).log_softmax(dim=1)
    confidence_N = (logp_NK.exp() * onehot_NK).sum(1)
    tau2_N = (tau1 - eps) + 2 * eps * confidence_N
    q_NK = (onehot_NK / tau2_N[:, None]).softmax(dim=1)
    kl_N = (q_NK * (q_NK.clamp(min=1e-12).log() - logp_NK)).sum(1)
    nll_N = -(logp_NK * onehot_NK).sum(1)
    rows = {"kl": kl_N, "nll": nll_N, "tau2": tau2_N, "confidence": confidence_N}
    return (kl_N + nll_N).mean(), {name: row.mean() for name, row in rows.items()}
