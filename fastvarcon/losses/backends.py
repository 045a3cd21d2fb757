"""Which implementation of a loss a call takes: torch, or Triton where it can run."""

from __future__ import annotations

import importlib.util
import os

import torch
from torch import Tensor

BACKENDS = ("auto", "closed", "reference", "triton")
HAS_TRITON = importlib.util.find_spec("triton") is not None


def resolve_backend(backend: str, z: Tensor, max_dim: int) -> str:
    """ "auto" is triton for rows z [n, D] on CUDA below float64 with D <= `max_dim`, else closed.

    Raises:
        ValueError: an unknown backend, or triton asked for where it cannot run.
    """
    if backend not in BACKENDS:
        raise ValueError(f"unknown backend {backend!r}: choose from {', '.join(BACKENDS)}")
    able = z.dtype != torch.float64 and z.shape[1] <= max_dim
    if backend == "auto":
        return "triton" if z.is_cuda and able and HAS_TRITON else "closed"
    if backend == "triton":
        if not HAS_TRITON:
            raise ValueError("backend 'triton' needs the package: pip install triton, or take backend 'closed'")
        if not able:
            raise ValueError(
                f"backend 'triton' takes float32 or less and {max_dim} columns at most, got {z.dtype} and "
                f"{z.shape[1]}: take backend 'closed'"
            )
        if not z.is_cuda and os.environ.get("TRITON_INTERPRET") != "1":
            raise ValueError("backend 'triton' needs rows on a CUDA device: move them there, or take backend 'closed'")
    return backend
