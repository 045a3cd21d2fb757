"""Few labelled images a class, over repeated random draws: nearest class mean, and logistic regression.

Features have length 1. There are no images to choose a penalty on, so it is fixed: C = 1 on unit rows (Tian et al.
2020). Every encoder gets the same draws, so the difference of two is paired.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from fastvarcon.errors import UserError
from fastvarcon.evaluation import logistic
from fastvarcon.evaluation.features import Features, counts
from fastvarcon.evaluation.job import Job
from fastvarcon.evaluation.knn import nearest_mean
from fastvarcon.evaluation.options import FewShot
from fastvarcon.evaluation.scores import accuracy, interval95, top_k
from fastvarcon.evaluation.splits import draw
from fastvarcon.evaluation.target import resolve

STRENGTH = 1.0


def run(job: Job, options: FewShot) -> dict:
    train, val = job.pair()
    pairs = {job.target.title: (train, val)}
    if options.against is not None:
        other = resolve(options.against, options.against_weights)
        title = other.title if other.title not in pairs else f"{other.title} (against)"
        pairs[title] = job.pair(target=other)
    fewest = int(train.labels.unique(return_counts=True)[1].min())
    shots = [m for m in sorted(set(options.shots)) if m <= fewest]
    if not shots:
        raise UserError(f"--shots {min(options.shots)}: a class has only {fewest} training images")
    generator = torch.Generator().manual_seed(options.seed)
    draws = {m: [draw(train.labels, m, generator) for _ in range(options.draws)] for m in shots}
    scores = {
        title: {m: [_score(*pair, index, job.device) for index in draws[m]] for m in shots}
        for title, pair in pairs.items()
    }
    rows = [
        {"encoder": title, "method": method, "shots": m, **_figures([draw[method] for draw in by_shots[m]])}
        for title, by_shots in scores.items()
        for method in ("nearest class mean", "logistic regression")
        for m in shots
    ]
    left_out = sorted(set(options.shots) - set(shots))
    return {
        "rows": rows,
        "differences": _differences(scores, shots),
        "shots": shots,
        "shots_left_out": left_out,
        "draws": options.draws,
        "protocol": f"{options.draws} draws a number of images, mean and 95 % interval of the mean (Student's t)"
        + (f"; {left_out} are more than the {fewest} images of the smallest class" if left_out else ""),
        "lines": [
            f"{row['encoder']}  {row['method']:<20} {row['shots']:>4} a class  {row['mean']:.2%} ± "
            f"{100 * row['half_width']:.2f}"
            for row in rows
        ],
        **counts(train, val),
    }


def _score(train: Features, val: Features, index: Tensor, device: torch.device) -> dict[str, float]:
    """Accuracy of both methods on one draw."""
    x, y = F.normalize(train.x[index], dim=1).to(device), train.labels[index].to(device)
    val_x, val_y = F.normalize(val.x, dim=1).to(device), val.labels.to(device)
    weights = logistic.fit(x, y, len(train.classes), STRENGTH)
    return {
        "nearest class mean": accuracy(nearest_mean(x, y, val_x, len(train.classes)), val_y),
        "logistic regression": top_k(logistic.predict(weights, val_x), val_y, 1),
    }


def _figures(values: list[float]) -> dict:
    mean, half_width = interval95(values)
    return {"mean": mean, "half_width": half_width, "by_draw": values}


def _differences(scores: dict, shots: list[int]) -> list[dict]:
    """First encoder minus second, draw by draw."""
    if len(scores) < 2:
        return []
    one, two = scores.values()
    return [
        {"method": method, "shots": m} | _figures([a[method] - b[method] for a, b in zip(one[m], two[m], strict=True)])
        for method in ("nearest class mean", "logistic regression")
        for m in shots
    ]
