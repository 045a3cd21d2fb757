"""Cosine k-nearest-neighbour classification, exact, in chunks; and the nearest class mean."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from fastvarcon.errors import UserError
from fastvarcon.evaluation.features import counts
from fastvarcon.evaluation.job import Job
from fastvarcon.evaluation.options import Knn
from fastvarcon.evaluation.scores import accuracy

__all__ = ["accuracy", "headline_k", "knn_predict", "nearest_mean", "run", "vote"]
DEFAULT_KS = (1, 5, 20, 200)
QUERY_CHUNK, BANK_CHUNK = 1024, 65_536
"""Queries and training rows at a time: similarities take 268 MB, and a GPU holds one chunk of the training rows, not
all of them (10 GB for ImageNet and 2,048 numbers a row)."""


def run(job: Job, options: Knn) -> dict:
    train, val = job.pair()
    ks = options.k or tuple(k for k in DEFAULT_KS if k <= len(train.x))
    num_classes, labels = len(train.classes), val.labels
    train_x, train_y, val_x = train.x, train.labels, val.x.to(job.device)
    plain, weighted = vote(train_x, train_y, val_x, num_classes, ks, options.temperature)
    by_k = {str(k): accuracy(plain[k].cpu(), labels) for k in ks}
    k = headline_k(ks)
    return {
        "top1": by_k[str(k)],
        "k": k,
        "top1_by_k": by_k,
        "weighted_top1_by_k": {str(k): accuracy(weighted[k].cpu(), labels) for k in ks},
        "temperature": options.temperature,
        "nearest_class_mean_top1": accuracy(nearest_mean(train_x, train_y, val_x, num_classes).cpu(), labels),
        "protocol": f"cosine kNN, majority vote, k = {k}",
        **counts(train, val),
    }


def knn_predict(
    train_x: Tensor, train_y: Tensor, query_x: Tensor, num_classes: int, ks: tuple[int, ...]
) -> dict[int, Tensor]:
    """Class of each query by majority of its k most similar training rows, for every k: {k: [m] int64}.

    Arguments, ties and errors as for `vote`.
    """
    return vote(train_x, train_y, query_x, num_classes, ks)[0]


def vote(
    train_x: Tensor,
    train_y: Tensor,
    query_x: Tensor,
    num_classes: int,
    ks: tuple[int, ...],
    temperature: float | None = None,
) -> tuple[dict[int, Tensor], dict[int, Tensor]]:
    """Class of each query by its k most similar training rows, for every k: by majority, and by weighted votes.

    Args:
        train_x: [n, D] float, rows are normalised here. May lie on the host: it goes to the device of the queries in
            chunks.
        train_y: [n] int64 in [0, num_classes).
        query_x: [m, D] float on the device that does the work.
        temperature: of the weighted votes exp(cosine / temperature); None leaves them out.

    Returns:
        {k: [m] int64} twice, on the device of the queries. A tie goes to the smaller class index, as in scikit-learn.

    Raises:
        UserError: a k below 1 or above n.
    """
    for k in ks:
        if not 1 <= k <= len(train_x):
            raise UserError(
                f"k = {k} neighbours cannot be found among {len(train_x)} training images: choose a smaller --k"
            )
    cosines, nearest = _nearest(train_x, query_x, max(ks))
    plain: dict[int, list[Tensor]] = {k: [] for k in ks}
    weighted: dict[int, list[Tensor]] = {k: [] for k in ks if temperature is not None}
    train_y = train_y.to(query_x.device)
    for near, classes in zip(cosines.split(QUERY_CHUNK), train_y[nearest].split(QUERY_CHUNK), strict=True):
        for k in ks:
            # argmax takes the first of equal maxima, the smaller class
            plain[k].append(_tally(classes[:, :k], torch.ones_like(near[:, :k]), num_classes).argmax(1))
            if temperature is not None:
                votes = torch.exp((near[:, :k] - near[:, :1]) / temperature)  # the largest is 1: no overflow
                weighted[k].append(_tally(classes[:, :k], votes, num_classes).argmax(1))
    joined = [{k: torch.cat(parts) for k, parts in way.items()} for way in (plain, weighted)]
    return joined[0], joined[1]


def _nearest(train_x: Tensor, query_x: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Cosines [m, k] of each query's k most similar training rows, largest first, and which rows [m, k] they are."""
    queries = F.normalize(query_x, dim=1)
    cosines = queries.new_full((len(queries), k), -torch.inf)
    rows = torch.zeros(len(queries), k, dtype=torch.int64, device=queries.device)
    for first in range(0, len(train_x), BANK_CHUNK):
        bank = F.normalize(train_x[first : first + BANK_CHUNK].to(queries.device), dim=1)
        for start in range(0, len(queries), QUERY_CHUNK):
            part = slice(start, start + QUERY_CHUNK)
            near, place = (queries[part] @ bank.T).topk(min(k, len(bank)), dim=1)
            cosines[part], order = torch.cat([cosines[part], near], 1).topk(k, dim=1)
            rows[part] = torch.cat([rows[part], place + first], 1).gather(1, order)
    return cosines, rows


def _tally(classes: Tensor, votes: Tensor, num_classes: int) -> Tensor:
    """[m, num_classes] sums of votes [m, k] for classes [m, k]."""
    return votes.new_zeros(len(classes), num_classes).scatter_add_(1, classes, votes)


def nearest_mean(train_x: Tensor, train_y: Tensor, query_x: Tensor, num_classes: int) -> Tensor:
    """Class whose mean of unit rows is nearest in angle, [m] int64. Classes without training rows are never chosen.

    Arguments as for `vote`.
    """
    sums = query_x.new_zeros(num_classes, train_x.shape[1])
    for x, y in zip(train_x.split(BANK_CHUNK), train_y.split(BANK_CHUNK), strict=True):
        sums.index_add_(0, y.to(sums.device), F.normalize(x.to(sums.device), dim=1))
    cosines = F.normalize(query_x, dim=1) @ F.normalize(sums, dim=1).T
    absent = torch.bincount(train_y, minlength=num_classes).to(cosines.device) == 0
    return cosines.masked_fill(absent, -torch.inf).argmax(1)


def headline_k(ks: tuple[int, ...]) -> int:
    """The k whose score is quoted: 20, fixed beforehand so that it is not picked by its test score; else the first."""
    return 20 if 20 in ks else ks[0]
