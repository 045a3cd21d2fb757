"""VarCon: variational supervised contrastive loss (Wang et al., NeurIPS 2025, arXiv 2506.07413).

Rows z_i are unit vectors with class y_i. K classes are present in the global batch; w_k is the normalised sum of the
rows of class k, l_k = z.w_k / tau1 a logit, p = softmax(l) over the classes present. Equations as in the paper:

    loss_i = KL(q || p) - log p_y                                                       (7)
    q      = softmax(onehot(y) / tau2)                                                  (10)-(12)
    tau2   = (tau1 - eps) + 2 eps p_y                                                   (13)

Three implementations of a row: `varcon_reference.py` (these lines), `varcon_closed.py` (closed form in torch) and
`kernels/varcon.py` (the same in Triton, with the derivation). None but the reference makes an N x C tensor.

Distributed (`group`): every rank evaluates its own rows against the class sums of the global batch. Value and
gradient are those of one process that holds all rows: rank r's z.grad is its slice of the gradient of the global
mean. (Under DDP, which averages gradients over ranks, multiply the loss by the world size before `backward`; the
trainer does.) Forward takes one all-reduce of the class sums and one of a scalar, backward none with detached
centroids, else one: `varcon_batch.py` counts the bytes. Rows are never gathered.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor
from torch.distributed import ProcessGroup

from fastvarcon.losses.backends import BACKENDS, resolve_backend
from fastvarcon.losses.base import Loss
from fastvarcon.losses.varcon_batch import AverageGradient, class_sums, compact, own_cosines
from fastvarcon.losses.varcon_closed import rows_closed
from fastvarcon.losses.varcon_prototypes import Prototypes
from fastvarcon.losses.varcon_reference import rows_reference
from fastvarcon.losses.varcon_settings import REDUCTIONS, TERMS, TRITON_MAX_DIM, Settings, check_rows
from fastvarcon.losses.varcon_smoothing import smoothing_rows

__all__ = ["BACKENDS", "REDUCTIONS", "VarConLoss", "VarConStats", "varcon_loss", "varcon_stats"]


@dataclass(frozen=True)
class VarConStats:
    """Per-row numbers of this rank, [n] each, without gradient; 0 in ignored rows."""

    tau2: Tensor
    """Adaptive temperature, in [tau1 - eps, tau1 + eps]."""
    confidence: Tensor
    """p_y. Rows are part of their own centroid, so this is high even for random features: no measure of learning."""
    kl: Tensor
    nll: Tensor
    hit: Tensor
    """1 where the nearest centroid is that of the row's class. Biased like `confidence`."""


def varcon_loss(
    z: Tensor,
    labels: Tensor,
    num_classes: int,
    *,
    tau1: float = 0.1,
    eps: float | Tensor = 0.02,
    group: ProcessGroup | None = None,
    reduction: str = "mean",
    detach_centroids: bool = True,
    detach_target: bool = False,
    backend: str = "auto",
    terms: str = "both",
    label_smoothing: float = 0.0,
    leave_one_out: bool = False,
    class_sums: str = "auto",
    max_rows: int | None = None,
) -> Tensor:
    """VarCon loss (7) of the global batch.

    Args:
        z: [n, D] unit rows of this rank, float64/32/16 or bfloat16. Without Triton half precision is computed in
            float32; with it in float16 products and float32 sums.
        labels: [n] integer class of each row in [0, num_classes); negative = ignored row (no loss, no gradient, in no
            centroid, not counted). One that is too large is an error on the CPU and a NaN on a GPU.
        num_classes: classes of the dataset; those absent from the batch play no part.
        tau1: temperature (8), > eps.
        eps: half-width of the adaptive temperature (13), >= 0; a tensor of one element may learn: its gradient is the
            part of this rank's rows, like that of z.
        group: process group that shares the batch; None = this process alone.
        reduction: "mean" over the rows of the global batch, "sum" over them, or "none": [n], this rank's rows.
        detach_centroids: no gradient through the centroids (as the reference code).
        detach_target: no gradient through tau2 (the reference code lets it flow).
        backend: "reference" (the equations), "closed" (torch), "triton" (CUDA), or "auto": triton for rows on CUDA
            below float64 with D <= 2048 where the package is installed, else closed.
        terms: "both", "kl" or "nll": which terms of (7) count; "2nll": twice the second, the control of VarCon.
        label_smoothing: with terms "nll" and "2nll", share of the target that is spread over the classes present.
        leave_one_out: a row is not part of its own centroid. The only row of a class has the true logit 0 then.
        class_sums: how Triton adds up classes: "onehot" or "sorted", which are repeatable to the bit, "auto" (one of
            them, by size) or "atomic", which is not.
        max_rows: with a group, the most rows that its batches have, the same on every rank. Where num_classes is
            larger, the ranks exchange only that many classes.

    Returns:
        scalar, or [n] for "none"; float32, or float64 for float64 rows.

    Raises:
        ValueError: shapes, labels, temperatures or names that cannot be, a backend that cannot run.
    """
    settings = Settings(
        num_classes, tau1, group, reduction, detach_centroids, detach_target, backend, terms, leave_one_out,
        class_sums, max_rows, label_smoothing,
    )  # fmt: skip
    settings.check(eps)
    rows, _, inverse_rows = _evaluate(z, labels, eps, settings)
    return _reduce(rows, inverse_rows, reduction, group)


def varcon_stats(
    z: Tensor,
    labels: Tensor,
    num_classes: int,
    *,
    tau1: float = 0.1,
    eps: float | Tensor = 0.02,
    group: ProcessGroup | None = None,
    backend: str = "auto",
    leave_one_out: bool = False,
    max_rows: int | None = None,
) -> VarConStats:
    """Per-row tau2, confidence, KL, NLL and nearest-centroid hit of this rank. Arguments as `varcon_loss`."""
    settings = Settings(
        num_classes, tau1, group, "none", True, True, backend, leave_one_out=leave_one_out, max_rows=max_rows
    )
    with torch.no_grad():
        eps = eps.detach() if torch.is_tensor(eps) else eps
        settings.check(eps)
        return VarConStats(*_evaluate(z, labels, eps, settings)[1])


class VarConLoss(Loss):
    """`varcon_loss` with its settings, and what it may learn or carry from step to step.

    Args: as `varcon_loss`, and
        learn_eps: eps is a parameter, put back into [0, EPS_SHARE tau1] before each use. Its gradient is averaged over
            the ranks, as DDP does with those of the network.
        prototype_momentum: None, or m in [0, 1): centroids are running means m old + (1 - m) new over the steps, for
            batches with few rows a class. See varcon_prototypes.py. Needs `dim`.
        dim: D, of the rows.
    """

    EPS_SHARE = 0.8

    def __init__(
        self,
        num_classes: int,
        tau1: float = 0.1,
        eps: float = 0.02,
        *,
        group: ProcessGroup | None = None,
        reduction: str = "mean",
        detach_centroids: bool = True,
        detach_target: bool = False,
        backend: str = "auto",
        terms: str = "both",
        label_smoothing: float = 0.0,
        leave_one_out: bool = False,
        class_sums: str = "auto",
        max_rows: int | None = None,
        learn_eps: bool = False,
        prototype_momentum: float | None = None,
        dim: int | None = None,
    ):
        super().__init__()
        self.settings = Settings(
            num_classes, tau1, group, reduction, detach_centroids, detach_target, backend, terms, leave_one_out,
            class_sums, max_rows, label_smoothing,
        )  # fmt: skip
        self.settings.check(eps)
        if learn_eps and not eps <= self.EPS_SHARE * tau1:
            raise ValueError(f"eps ({eps}) learns within [0, {self.EPS_SHARE} tau1]: start there")
        self.eps = torch.nn.Parameter(torch.tensor(float(eps))) if learn_eps else eps
        self.settings.check(self.eps)
        self.prototypes = None
        if prototype_momentum is not None:
            if leave_one_out:
                raise ValueError("leave_one_out has no meaning for prototypes, which hold rows of earlier steps")
            self.prototypes = Prototypes(num_classes, dim, prototype_momentum)

    def forward(self, z: Tensor, labels: Tensor) -> Tensor:
        return self.with_stats(z, labels)[0]

    def with_stats(self, z: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss and, from the same pass, the per-row statistics by name."""
        s = self.settings
        rows, stats, inverse_rows = _evaluate(z, labels, self._eps(), s, self.prototypes)
        return _reduce(rows, inverse_rows, s.reduction, s.group), dict(vars(VarConStats(*stats)))

    def _eps(self) -> float | Tensor:
        if not torch.is_tensor(self.eps):
            return self.eps
        with torch.no_grad():
            self.eps.clamp_(0, self.EPS_SHARE * self.settings.tau1)
        return AverageGradient.apply(self.eps, self.settings.group)

    def extra_repr(self) -> str:
        s = self.settings
        return f"num_classes={s.num_classes}, tau1={s.tau1}, eps={float(self.eps):g}, backend={s.backend!r}"


# ---- the global batch ----------------------------------------------------------------------------------------------


def _evaluate(
    z: Tensor, labels: Tensor, eps: float | Tensor, s: Settings, prototypes: Prototypes | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """(loss [n], statistics [5, n], 1 / rows of the global batch)"""
    labels = check_rows(z, labels, s.num_classes)
    backend = resolve_backend(s.backend, z, TRITON_MAX_DIM)
    triton = backend == "triton"
    with torch.autocast(z.device.type, enabled=False):
        classes = s.num_classes
        bound = len(z) if s.group is None else s.max_rows
        if prototypes is None and bound is not None and classes > bound:
            labels, classes = compact(labels, classes, max(bound, 1), s.group)
        if not triton:
            z = z if z.dtype == torch.float64 else z.float()
            z = torch.where((labels >= 0)[:, None], z, 0)
        sums, counts = class_sums(
            z.detach() if s.detach_centroids else z, labels, classes, s.group, s.class_sums if triton else None
        )
        inverse_rows = None if triton and prototypes is None else 1 / counts.sum().clamp(min=1)
        if prototypes is not None:
            sums, counts = prototypes(sums, counts)
        own = own_cosines(z, labels, sums, counts, s.detach_centroids) if s.leave_one_out else None
        if triton:
            loss, stats, counted = _rows_triton(z, sums, counts, labels, own, eps, s)
            inverse_rows = counted[0] if inverse_rows is None else inverse_rows
        else:
            rows = rows_reference if backend == "reference" else rows_closed
            w = F.normalize(sums.squeeze(0), dim=1)
            loss, stats = rows(z, w, own, eps, labels, counts.squeeze(0) > 0, s)
        if s.label_smoothing:
            _, nll = TERMS[s.terms]
            loss = loss + nll * smoothing_rows(z, labels, sums, counts, own, s.tau1, s.label_smoothing)
        assert inverse_rows is not None
        return loss, stats, inverse_rows


def _rows_triton(
    z: Tensor, sums: Tensor, counts: Tensor, labels: Tensor, own: Tensor | None, eps: float | Tensor, s: Settings
) -> tuple[Tensor, Tensor, Tensor]:
    from fastvarcon.kernels import varcon  # triton is not on every system, and only this needs it

    kl, nll = TERMS[s.terms]
    return varcon.rows(
        z, sums, counts, labels, own=own, eps=eps, tau1=s.tau1, kl=kl, nll=nll, detach_target=s.detach_target
    )


def _reduce(rows: Tensor, inverse_rows: Tensor, reduction: str, group: ProcessGroup | None) -> Tensor:
    if reduction == "none":
        return rows
    total = rows.sum()
    if reduction == "mean":
        total = total * inverse_rows
    if group is None:
        return total
    value = total.detach().clone()
    dist.all_reduce(value, group=group)
    return total + (value - total.detach())  # the global value, with the gradient of this rank's rows
