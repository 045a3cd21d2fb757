"""The contrastive family in one formula: what `contrastive.py` (Triton) and `contrastive_torch.py` both compute.

Rows z_a are unit vectors, x_ab = z_a . z_b / tau. Every row carries three integers, which say who its positives P(a)
and its denominator's rows D(a) are:

    P(a) = {b : pos_b = pos_a and apart_b != apart_a}       pos: its image or its class; apart: the row, or its image
    D(a) = {b : den_b != den_a}                             den: the row itself, its image or its class

A row with den < 0 takes no part. Then, per anchor a:

    N_a  = log sum_{k in D(a)} w_ak e^{x_ak}                w = 1; beta: (M - 2) softmax_{D(a)}(beta x), detached
    l_ap = N_a - x_ap                                       own: log(e^{N_a} + e^{x_ap}) - x_ap
    l_a  = mean_{p in P(a)} l_ap                            inside: -log mean_{p in P(a)} e^{-l_ap}

With Q_a = softmax of (1 + beta) x over D(a), whose log-sum-exp is lse_a (beta = 0 without beta), and for upstream
gradients g_a of l_a and h_a of N_a, the gradient by x_ab is

    G_ab  = [b in D(a)] A_a Q_ab - [b in P(a)] B_a f(x_ab, C_a)
    plain:   A = g + h         B = g / |P|    f = 1
    inside:  A = g + h         B = g          f = e^{x - C},         C_a = log sum_{p in P(a)} e^{x_ap}
    own:     A = g R + h       B = g / |P|    f = sigmoid(C - x),    C_a = N_a,  R_a = mean_p sigmoid(N_a - x_ap)

P and D are symmetric, so dL/dz_a = (1/tau) sum_b (G_ab + G_ba) z_b needs the four numbers (lse, A, B, C) of both rows
and one more look at x. Nothing of size N x N is kept. On several processes rows are those of one rank and keys those
of all: the four numbers of every row are gathered in the place of a reduction of gradients.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor


@dataclass(frozen=True)
class Form:
    """One member of the family, as far as its rows' ids do not say it."""

    tau: float
    own: bool = False
    """The positive itself joins the denominator of its own term."""
    inside: bool = False
    """Mean over positives inside the logarithm. Not together with `own`."""
    beta: float | None = None
    """Weight hard negatives by e^(beta x), normalised, times M - 2; None = all weigh 1."""

    @property
    def sharpness(self) -> float:
        """1 + beta: the factor on x in Q."""
        return 1.0 + (self.beta or 0.0)


class RowTable(NamedTuple):
    """What the forward pass finds out about each row, [n] each."""

    loss: Tensor
    """l_a; N_a where there are no positives."""
    den: Tensor
    """N_a; -inf where D(a) is empty."""
    lse: Tensor
    """Log-sum-exp of (1 + beta) x over D(a)."""
    offset: Tensor
    """C_a."""
    ratio: Tensor
    """R_a; 1 unless `own`."""
    positives: Tensor
    """|P(a)|."""


def log_weight(key_ids_3M: Tensor, dtype: torch.dtype) -> Tensor:
    """log(M - 2) for the M keys that take part, a scalar on their device."""
    return ((key_ids_3M[2] >= 0).sum() - 2).clamp(min=1).to(dtype).log()


def row_scalars(table: RowTable, g: Tensor, h: Tensor, form: Form) -> Tensor:
    """(lse, A, B, C) of each row, [4, n], for upstream gradients g of l_a and h of N_a."""
    found = table.lse.isfinite()
    counted = found & (table.positives > 0)
    A = torch.where(counted, g * table.ratio, g) + h
    B = g if form.inside else g / table.positives.clamp(min=1)
    columns = [(found, table.lse), (found, A), (counted, B), (counted, table.offset)]
    return torch.stack([torch.where(used, column, 0) for used, column in columns])
