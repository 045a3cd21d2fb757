"""torch.compile of encoder and head, for training alone: evaluation calls the encoder, which stays as it is."""

from __future__ import annotations

import torch
import torch.nn as nn
from torch import Tensor


def compile_network(network: nn.Module, mode: str) -> None:
    """Replace `network.forward` by its compiled form. `mode` as TrainConfig.compile; parameters keep their names."""
    if mode == "off":
        return
    graphs = mode == "cuda-graphs"
    # batches change their shape with the resolution at most: a few kernels for fixed shapes beat one for any shape
    compiled = torch.compile(network.forward, mode="reduce-overhead" if graphs else "default", dynamic=False)

    def forward(views: Tensor) -> Tensor:
        if graphs:  # what the last call has returned may be overwritten now
            torch.compiler.cudagraph_mark_step_begin()
        return compiled(views)

    network.forward = forward
