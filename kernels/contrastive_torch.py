"""The contrastive family in plain torch: `closed`, in chunks and with its own gradient, and `reference`, line by line.

Memory of `closed`: a few tensors of chunk x N, at most CHUNK numbers each, beside its arguments and results of N x D.
Time: one product of N^2 D forward, two backward. `reference` keeps several N x N tensors for autograd.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .contrastive_form import Form, RowTable, log_weight

CHUNK = 1 << 20  # similarities at a time: 4 MB in float32, which stay in a core's cache


def reference(z_nD: Tensor, keys_MD: Tensor, ids_3n: Tensor, key_ids_3M: Tensor, form: Form) -> RowTable:
    """The equations of contrastive_form.py one by one; gradients of loss and den by autograd.

    Args:
        z_nD, keys_MD: [n, D], [M, D] rows of the same dtype; the first are among the second.
        ids_3n, key_ids_3M: [3, n], [3, M] int32: pos, apart and den of each.
    """
    P, out = _masks(ids_3n, key_ids_3M)
    x = z_nD @ keys_MD.T / form.tau
    logw = torch.zeros_like(x)
    if form.beta is not None:
        logw = log_weight(key_ids_3M, x.dtype) + torch.log_softmax(
            (form.beta * x.detach()).masked_fill(out, -torch.inf), dim=1
        )
    N = (x + logw).masked_fill(out, -torch.inf).logsumexp(1)
    l = (torch.logaddexp(N[:, None], x) if form.own else N[:, None]) - x
    count = P.sum(1, dtype=x.dtype)
    if form.inside:
        loss = -((-l).masked_fill(~P, -torch.inf).logsumexp(1) - count.log())
    else:
        loss = torch.where(P, l, 0).sum(1) / count.clamp(min=1)
    loss = torch.where(count > 0, loss, N)
    unused = torch.zeros_like(N)
    return RowTable(loss, N, unused, unused, unused, count)


def row_table(z_nD: Tensor, keys_MD: Tensor, ids_3n: Tensor, key_ids_3M: Tensor, form: Form) -> RowTable:
    """The forward pass in chunks, without autograd. Arguments as `reference`; everything in the dtype of z."""
    parts = [
        _chunk_table(z, keys_MD, ids, key_ids_3M, form)
        for z, ids in zip(*_chunks(len(keys_MD), z_nD, ids_3n.T), strict=True)
    ]
    return RowTable(*(torch.cat(column) for column in zip(*parts, strict=True)))


def _chunk_table(z, keys, ids, key_ids, form: Form) -> RowTable:
    P, out = _masks(ids.T, key_ids)
    x = (z @ keys.T).mul_(1 / form.tau)
    count = P.sum(1, dtype=x.dtype)
    lse = _sharpened(x, form).masked_fill(out, -torch.inf).logsumexp(1)
    N = lse
    if form.beta is not None:
        N = lse - (x * form.beta).masked_fill_(out, -torch.inf).logsumexp(1) + log_weight(key_ids, x.dtype)
        N = torch.where(out.all(1), -torch.inf, N)
    ratio, offset, some = torch.ones_like(N), N, count.clamp(min=1)
    if form.own:
        u = N[:, None] - x
        loss = torch.where(P, torch.nn.functional.softplus(u, threshold=50), 0).sum(1) / some
        ratio = torch.where(P, u.sigmoid_(), 0).sum(1) / some
    elif form.inside:
        offset = x.masked_fill(~P, -torch.inf).logsumexp(1)
        loss = N - offset + some.log()
    else:
        loss = N - torch.where(P, x, 0).sum(1) / some
    return RowTable(torch.where(count > 0, loss, N), N, lse, offset, ratio, count)


def gradient(
    z_nD: Tensor,
    keys_MD: Tensor,
    ids_3n: Tensor,
    key_ids_3M: Tensor,
    scalars_4n: Tensor,
    key_scalars_4M: Tensor,
    form: Form,
) -> Tensor:
    """dL/dz of the rows, [n, D], from `row_scalars` of the rows and of all keys."""
    parts = []
    for z, ids, scalars in zip(*_chunks(len(keys_MD), z_nD, ids_3n.T, scalars_4n.T), strict=True):
        P, out = _masks(ids.T, key_ids_3M)
        x = (z @ keys_MD.T).mul_(1 / form.tau)
        rows, keys = scalars.T[:, :, None], key_scalars_4M[:, None, :]
        sharpened = _sharpened(x, form)
        G = (sharpened - rows[0]).exp_().mul_(rows[1])
        G += (sharpened - keys[0]).exp_().mul_(keys[1])
        G.masked_fill_(out, 0)  # also where an exponential of what is out was too large
        G -= torch.where(P, rows[2] * _slope(x, rows[3], form) + keys[2] * _slope(x, keys[3], form), 0)
        parts.append(G @ keys_MD)
    return torch.cat(parts) / form.tau


def _slope(x: Tensor, C: Tensor, form: Form) -> Tensor | float:
    """f(x, C)"""
    return (C - x).sigmoid_() if form.own else (x - C).exp_() if form.inside else 1.0


def _masks(ids_3n: Tensor, key_ids_3M: Tensor) -> tuple[Tensor, Tensor]:
    """P, and who is not in D, [n, M] bool."""
    (pos, apart, den), (key_pos, key_apart, key_den) = ids_3n[:, :, None], key_ids_3M[:, None, :]
    absent = (den < 0) | (key_den < 0)
    return ((pos == key_pos) & (apart != key_apart)).masked_fill_(absent, False), (den == key_den).logical_or_(absent)


def _sharpened(x: Tensor, form: Form) -> Tensor:
    """(1 + beta) x"""
    return x if form.beta is None else x * form.sharpness


def _chunks(num_keys: int, *tensors: Tensor) -> list[tuple[Tensor, ...]]:
    return [tensor.split(max(1, CHUNK // max(1, num_keys))) for tensor in tensors]
