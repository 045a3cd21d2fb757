"""What aot.py compiles: (name, function that launches kernels on host tensors), every branch of what is shipped.

Names begin with the family: "varcon", "contrastive" or "views".
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import torch

from fastvarcon.data.augment import view_params
from fastvarcon.data.batch import ImageBatch
from fastvarcon.kernels import contrastive, varcon, views_triton
from fastvarcon.kernels.contrastive_form import Form

Launches = Iterator[tuple[str, Callable[[], object]]]

STEPS = {  # rows, D, classes, dtype of z, tau1, method of the class sums
    "bfloat16 128": (8192, 128, 1000, torch.bfloat16, 0.1),
    "bfloat16 256": (65536, 256, 1000, torch.bfloat16, 0.1),
    "bfloat16 256 online": (65536, 256, 1000, torch.bfloat16, 0.05),
    "bfloat16 256 few rows": (1024, 256, 1000, torch.bfloat16, 0.1),
    "bfloat16 512": (8192, 512, 1000, torch.bfloat16, 0.1, "sorted"),
    "bfloat16 2048": (256, 2048, 200, torch.bfloat16, 0.1),
    "float32 128": (8192, 128, 1000, torch.float32, 0.1),
    "float32 128 online": (8192, 128, 1000, torch.float32, 0.02),
    "float32 256": (256, 256, 200, torch.float32, 0.1, "onehot"),
}
FORMS = {  # every branch, every height of a tile
    "plain 128": (Form(0.1), 128),
    "own beta 256": (Form(0.1, own=True, beta=1.0), 256),
    "inside 512": (Form(0.1, inside=True), 512),
}
VIEWS = {
    "bfloat16": {},
    "bfloat16 blur": {"sigma": 1.0},
    "bfloat16 bicubic": {"interpolation": "bicubic"},
    "bfloat16 clipped": {"interpolation": "bicubic", "clip": True},
    "bfloat16 operations": {"op": 1},
    "float16 blur": {"sigma": 1.0},
    "float32": {},
}
SIZES = (1, 15, 16, 31, 32, 33, 160, 176, 192, 208, 223, 224)


def launches() -> Launches:
    for name, step in STEPS.items():
        yield f"varcon {name}", partial(_varcon, *step)
    for name, (form, dim) in FORMS.items():
        yield f"contrastive {name}", partial(_contrastive, form, dim)
    for name, options in VIEWS.items():
        yield f"views {name}", partial(_views, 4, 32, getattr(torch, name.split()[0]), **options)
    # bfloat16 over sizes, batch sizes and addresses of any divisibility
    for size in SIZES:
        yield "views any size", partial(_views, 4, size)
    for images in (1, 2, 3, 16):
        yield "views any batch", partial(_views, images, 32, address=images)


def _varcon(rows: int, dim: int, classes: int, dtype: torch.dtype, tau1: float, method: str = "auto") -> None:
    """Forward and backward, with attached centroids."""
    z = torch.zeros(rows, dim, dtype=dtype, requires_grad=True)
    labels = torch.zeros(rows, dtype=torch.int64)
    sums, counts = varcon.class_sums(z.detach(), labels, classes, method)
    sums = sums.sum(0, keepdim=True).requires_grad_()
    loss, _, _ = varcon.rows(z, sums, counts, labels, eps=0.02, tau1=tau1)
    loss.backward(torch.ones(rows))


def _contrastive(form: Form, dim: int) -> None:
    z = torch.zeros(256, dim, dtype=torch.float16)
    ids, scalars = torch.zeros(3, 256, dtype=torch.int32), torch.zeros(4, 256)
    contrastive.row_table(z, z, ids, ids, form)
    contrastive.gradient(z, z, ids, ids, scalars, scalars, form)


def _views(
    images: int, size: int, dtype: torch.dtype = torch.bfloat16, address: int = 0, sigma: float = 0.0, op: int = 0,
    interpolation: str = "bilinear", clip: bool = False,
) -> None:  # fmt: skip
    side, ids = np.full(images, 40), np.arange(images)
    table = view_params("simaugment", 0, 0, ids, 0, heights=side, widths=side)
    table = dataclasses.replace(
        table, blur_sigma=torch.full((images,), sigma), ops=torch.full((images, 2), op, dtype=torch.uint8)
    )
    buffer = torch.zeros(address + images * 40 * 40 * 3, dtype=torch.uint8)
    batch = ImageBatch.empty(side, side, ids, ids, lambda _: buffer[address:])
    normalise = {"mean": (0, 0.5, 1), "std": (1, 1, 0.5)}
    views_triton.views(batch, table, size=size, **normalise, dtype=dtype, interpolation=interpolation, clip=clip)
