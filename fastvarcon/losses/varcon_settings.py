"""Settings of the VarCon loss, and what they may be."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributed import ProcessGroup

from fastvarcon.losses.backends import BACKENDS
from fastvarcon.losses.base import class_numbers

REDUCTIONS = ("mean", "sum", "none")
TERMS = {"both": (1.0, 1.0), "kl": (1.0, 0.0), "nll": (0.0, 1.0), "2nll": (0.0, 2.0)}
"""Weights of KL(q || p) and of -log p in the loss. 2nll is a control: VarCon's gradient is nearly its own."""
CLASS_SUMS = ("auto", "onehot", "sorted", "atomic")
TRITON_MAX_DIM = 2048


@dataclass(frozen=True)
class Settings:
    """The arguments of `varcon_loss` but rows, labels and eps."""

    num_classes: int
    tau1: float
    group: ProcessGroup | None
    reduction: str
    detach_centroids: bool
    detach_target: bool
    backend: str
    terms: str = "both"
    leave_one_out: bool = False
    class_sums: str = "auto"
    max_rows: int | None = None
    label_smoothing: float = 0.0

    def check(self, eps: float | Tensor) -> None:
        """Raise ValueError for what cannot be. The value of a tensor is not looked at: that would wait for a GPU."""
        if self.num_classes < 1:
            raise ValueError(f"num_classes must be at least 1, got {self.num_classes}")
        if torch.is_tensor(eps):
            if eps.numel() != 1:
                raise ValueError(f"eps must be a number or one element, got {tuple(eps.shape)}")
            if self.detach_target and eps.requires_grad:
                raise ValueError("eps learns through the target: it cannot with detach_target=True")
        elif not 0 <= eps < self.tau1:
            raise ValueError(
                f"tau1 ({self.tau1}) must be larger than eps ({eps}), and eps at least 0: tau2 would not be positive"
            )
        for what, value, names in (
            ("reduction", self.reduction, REDUCTIONS),
            ("backend", self.backend, BACKENDS),
            ("terms", self.terms, TERMS),
            ("class_sums", self.class_sums, CLASS_SUMS),
        ):
            if value not in names:
                raise ValueError(f"unknown {what} {value!r}: choose from {', '.join(names)}")
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(f"label_smoothing must lie in [0, 1), got {self.label_smoothing}")
        if self.label_smoothing and TERMS[self.terms][0]:
            raise ValueError(f"label_smoothing goes with terms 'nll' and '2nll', not {self.terms!r}: tau2 smooths q")
        if self.class_sums != "auto" and self.backend in ("closed", "reference"):
            raise ValueError(f"class_sums={self.class_sums!r} is a way of backend 'triton', not of {self.backend!r}")


def check_rows(z: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """The labels as int64 in [-1, num_classes]; the last one, outside the classes, becomes a NaN on a GPU.

    Raises:
        ValueError: rows or labels of another shape or type; on a CPU, labels outside the classes.
    """
    if z.ndim != 2 or not z.is_floating_point():
        raise ValueError(f"z must be [rows, dim] and floating point, got {tuple(z.shape)} {z.dtype}")
    # the kernels read labels as 32 bits, or 16 where the classes fit into them
    return class_numbers(labels, len(z), num_classes).clamp(-1, num_classes)
