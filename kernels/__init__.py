"""Numerical kernels. They import torch, triton, numba and numpy, and nothing of fastvarcon.

Import them as `fastvarcon.kernels`; the top-level folder is a link target, not a package name.
"""

from __future__ import annotations

import torch
from torch import Tensor

from . import reference

__all__ = ["views", "views_backend"]


def views_backend(device: torch.device, dtype: torch.dtype) -> str:
    """Which implementation `views` uses: "numba" on the CPU, "torch" (plain, any device) for float64 and on GPUs."""
    return "numba" if device.type == "cpu" and dtype != torch.float64 else "torch"


def views(batch, table, *, size: int, mean, std, dtype: torch.dtype = torch.float32) -> Tensor:
    """Make V views of each image of a batch: `reference.views`, by the fastest implementation for its device."""
    if views_backend(batch.pixels.device, dtype) == "numba":
        from . import views_cpu  # numba takes a moment to load, and only this needs it

        return views_cpu.views(batch, table, size=size, mean=mean, std=std, dtype=dtype)
    return reference.views(batch, table, size=size, mean=mean, std=std, dtype=dtype)
