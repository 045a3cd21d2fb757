"""Numerical kernels. They import torch, triton, numba and numpy, and nothing of fastvarcon.

Import them as `fastvarcon.kernels`; the top-level folder is a link target, not a package name.
"""

from __future__ import annotations

import torch
from torch import Tensor

from . import reference

__all__ = ["views", "views_backend"]


def views_backend(device: torch.device, dtype: torch.dtype) -> str:
    """What `views` uses: "numba" on the CPU, "triton" on CUDA, "torch" (the plain one) elsewhere and in float64."""
    return "torch" if dtype == torch.float64 else {"cpu": "numba", "cuda": "triton"}.get(device.type, "torch")


def views(
    batch,
    table,
    *,
    size: int,
    mean,
    std,
    dtype: torch.dtype = torch.float32,
    interpolation: str = "bilinear",
    clip: bool = False,
    device: torch.device | str | None = None,
) -> Tensor:
    """Make V views of each image of a batch: `reference.views`, by the fastest implementation for its device.

    Args:
        device: where the views are made; default where the pixels are. On CUDA, page-locked pixels of the host are read
            in place: they must stay as they are until the kernel has run.
    """
    device = batch.pixels.device if device is None else torch.device(device)
    backend = views_backend(device, dtype)
    options = {"size": size, "mean": mean, "std": std, "dtype": dtype, "interpolation": interpolation, "clip": clip}
    if backend == "triton":
        from . import views_triton  # triton is not on every system, and only this needs it

        return views_triton.views(batch, table, **options, device=device)
    if batch.pixels.device != device:
        batch = batch.to(device)
    if backend == "numba":
        from . import views_cpu  # numba takes a moment to load, and only this needs it

        return views_cpu.views(batch, table, **options)
    return reference.views(batch, table, **options)
