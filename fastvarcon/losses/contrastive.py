"""SimCLR, DCL, NSCL, SupCon, SINCERE and H-SCL: one formula, five flags (docs/maths/family.md#one-formula).

M = K B rows z_a: K views of B images, image id(a), class y(a). With x_ab = z_a . z_b / tau, the loss of anchor a is

    l_a = reduce over p in P(a) of  -log( e^{x_ap} / ( sum_{k in D(a)} w_ak e^{x_ak} + own e^{x_ap} ) )

    member    P(a): pos       D(a): den                  own   reduce
    simclr    other views     self: all but a            no    out
    dcl       other views     image: other images        no    out
    nscl      other views     class: other classes       no    out     own: the form of the reference code
    supcon    same class      self                       no    out, in
    sincere   same class      class                      yes   out
    hscl      same class      class                      yes   pairs   w = (M - 2) softmax(beta x), detached

    out: mean over positives of the log.  in: log of the mean.  pairs: as out, but the mean of the batch is over pairs.

Anchors without a positive, or with nobody in their denominator, are left out of the mean; the figure `anchors` says how
many count. Rows of unknown class (label < 0) take no part where `pos` or `den` is class, and are like others elsewhere.

Cost: 6 M^2 D flops on rows of the global batch (own: up to 8), memory O(M D). With a process group the value and the
gradient are those of one process with all rows, as for VarCon: losses/pairs.py counts the collectives.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributed import ProcessGroup

from fastvarcon.kernels.contrastive_form import Form
from fastvarcon.losses.backends import BACKENDS
from fastvarcon.losses.base import Loss
from fastvarcon.losses.pairs import Batch, PairRows, describe_batch, global_mean, pair_rows

POSITIVES = ("aug", "class")
DENOMINATORS = ("self", "image", "class")
REDUCTIONS = ("out", "in", "pairs")


class ContrastiveLoss(Loss):
    """A member of the family. `forward(z, labels)` is the mean of the global batch.

    Args:
        name: what errors call it.
        num_views: rows are view-major, row v * B + b (K of the formula).
        temperature: tau > 0.
        pos, den, own, reduce: the flags above.
        beta: sharpness of the weights on hard negatives, >= 0; None = no weights.
        group: process group that shares the batch; None = this process alone.
        backend: auto, closed, reference or triton: losses/pairs.py.

    Raises:
        ValueError: settings, shapes or labels that cannot be; `labels` missing where a flag says class.
        UserError: on a CPU, a batch in which no row has both a positive and someone in its denominator, say one of a
            single class for NSCL. On a GPU such a batch has loss 0, gradient 0 and `anchors` 0.
    """

    def __init__(
        self,
        name: str = "contrastive",
        *,
        num_views: int = 2,
        temperature: float = 0.1,
        pos: str = "aug",
        den: str = "self",
        own: bool = False,
        reduce: str = "out",
        beta: float | None = None,
        group: ProcessGroup | None = None,
        backend: str = "auto",
    ):
        super().__init__()
        check_settings(name, temperature, pos, den, own, reduce, beta, backend)
        if pos == "aug" and num_views < 2:
            raise ValueError(f"{name} compares views of an image: it needs --data.num-views 2 or more, got {num_views}")
        self.name, self.num_views, self.pos, self.den, self.reduce = name, num_views, pos, den, reduce
        self.form = Form(temperature, own=own, inside=reduce == "in", beta=beta)
        self.group, self.backend = group, backend

    @property
    def needs_labels(self) -> bool:
        return "class" in (self.pos, self.den)

    def forward(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        """z: [n, D] unit rows of this process; labels: [n] integer classes, may be missing where nothing needs them."""
        return self.with_stats(z, labels)[0]

    def with_stats(self, z: Tensor, labels: Tensor | None = None) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss, and per row 1 if it counts as an anchor: {"anchors": [n]}."""
        rows = self.rows(z, labels)
        weights = rows.valid * rows.positives if self.reduce == "pairs" else rows.valid
        return global_mean(rows.loss, weights, self.group, self._nobody()), {"anchors": rows.valid.to(rows.loss.dtype)}

    def rows(self, z: Tensor, labels: Tensor | None = None) -> PairRows:
        """l_a, log of the denominator and number of positives of each row of this process."""
        batch = self._describe(z, labels)
        ids = torch.stack([self._pos(batch), batch.row, self._den(batch)])
        return pair_rows(z, ids, batch.mine, self.form, self.group, self.backend)

    def _describe(self, z: Tensor, labels: Tensor | None) -> Batch:
        if self.needs_labels and labels is None:
            raise ValueError(f"{self.name} needs the label of each row: give labels, or use simclr, dcl, dhel or kcl")
        return describe_batch(z, labels if self.needs_labels else None, self.num_views, self.group)

    def _pos(self, batch: Batch) -> Tensor:
        return batch.classes if self.pos == "class" else batch.image

    def _den(self, batch: Batch) -> Tensor:
        """Who is left out of whose denominator; negative = takes no part at all."""
        if self.den == "class":
            return batch.classes
        den = batch.row if self.den == "self" else batch.image
        return den if batch.label is None else torch.where(batch.label >= 0, den, -1)

    def _nobody(self) -> str:
        others = {"self": "another row", "image": "another image", "class": "a row of another class"}[self.den]
        remedy = "--data.num-views 2 or --sampling.per-class 2" if self.pos == "class" else "a larger batch"
        remedy = "a larger --train.global-batch with --sampling.per-class" if self.den == "class" else remedy
        return f"{self.name}: no row of the batch has both a positive and {others} to compare with: use {remedy}"

    def extra_repr(self) -> str:
        return f"{self.name!r}, pos={self.pos!r}, den={self.den!r}, reduce={self.reduce!r}, {self.form}"


def check_settings(
    name: str, temperature: float, pos: str, den: str, own: bool, reduce: str, beta: float | None, backend: str
) -> None:
    """Raise ValueError, naming the loss, for settings that cannot be."""
    if not temperature > 0:
        raise ValueError(f"{name}: the temperature must be positive, got {temperature}")
    if beta is not None and not beta >= 0:
        raise ValueError(f"{name}: beta must be 0 or more, got {beta}")
    if own and reduce == "in":
        raise ValueError(f"{name}: own and reduce='in' have no common form")
    for what, value, known in (
        ("pos", pos, POSITIVES),
        ("den", den, DENOMINATORS),
        ("reduce", reduce, REDUCTIONS),
        ("backend", backend, BACKENDS),
    ):
        if value not in known:
            raise ValueError(f"{name}: unknown {what} {value!r}: choose from {', '.join(known)}")
