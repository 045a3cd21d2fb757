"""`fastvarcon eval geometry`: how classes and views lie in an encoder's features, and what that promises for few shots.

Class geometry is that of the training images, and once more of the held-out ones, under evaluation views; variances of
views are those of held-out images under the run's augmentation. Embedding: the encoder's features, not the head's.
"""

from __future__ import annotations

import dataclasses

import torch
import torch.nn.functional as F
from torch import Tensor

from fastvarcon.config import Config
from fastvarcon.errors import UserError
from fastvarcon.evaluation import geometry
from fastvarcon.evaluation.features import Features
from fastvarcon.evaluation.few_shot_bounds import camera_ready_bound, first_bound, pairwise_bound
from fastvarcon.evaluation.few_shot_errors import few_shot_errors
from fastvarcon.evaluation.job import Job
from fastvarcon.evaluation.moments import ClassMoments, DirectionalMoments, measure
from fastvarcon.evaluation.options import Geometry
from fastvarcon.evaluation.view_geometry import ViewMoments, uniformity
from fastvarcon.losses.ssem import batch_threshold
from fastvarcon.models.weights import read_some
from fastvarcon.run_folder import CHECKPOINT_FILE, RunFolder

FEWEST_SHOTS = 10  # that the proofs of the bounds ask for
CLASSIFIER_PREFIX = "/model/head."
"""Where a checkpoint of the trainer keeps the classifier's tensors."""
PER_CLASS_WARNING = 200  # images below which the noise of the means counts as distance


def run(job: Job, options: Geometry) -> dict:
    train, val = job.pair()
    classes = len(train.classes)
    moments, directional = measure(train.x, train.labels, classes)
    figures = class_figures(moments, directional)
    figures |= {f"val_{name}": value for name, value in class_figures(*measure(val.x, val.labels, classes)).items()}
    figures |= {f"unit_{name}": value for name, value in unit_figures(train, classes).items()}
    figures |= view_figures(job, val, options)
    figures |= classifier_figures(job, moments, train.x)
    figures |= threshold_figures(job, classes)
    fewest = int(moments.count[moments.present].min())
    shots = [m for m in sorted(set(options.shots)) if m <= fewest]
    rows = [few_shot_row(train, val, moments, directional, m, options) for m in shots]
    notes = ["" if fewest >= PER_CLASS_WARNING else f"; {fewest} images of the smallest class: use the debiased CDNV"]
    if left_out := sorted(set(options.shots) - set(shots)):
        notes.append(f"; {left_out} shots are more than the smallest class has")
    return {
        **figures,
        "few_shot": rows,
        "num_train": len(train.x),
        "num_val": len(val.x),
        "protocol": "encoder features under evaluation views, population variances, means over class pairs"
        + "".join(notes),
        "lines": [*(f"{name:<32} {value:.4g}" for name, value in figures.items()), *map(_line, rows)],
    }


def class_figures(moments: ClassMoments, directional: DirectionalMoments) -> dict[str, float]:
    figures = {f"cdnv_{convention}": geometry.cdnv(moments, convention) for convention in geometry.CONVENTIONS}
    figures["cdnv_debiased"] = geometry.cdnv(moments, debias=True)
    figures["directional_cdnv"] = geometry.directional_cdnv(moments, directional)
    figures |= geometry.nc1(moments)
    figures |= {f"nc2_{name}": value for name, value in geometry.nc2(moments).items()}
    figures["frame_distance"] = geometry.frame_distance(moments)
    return figures


def unit_figures(features: Features, classes: int) -> dict[str, float]:
    """Of rows of length 1, which the losses of the family are about."""
    moments = ClassMoments(classes, features.x.shape[1])
    moments.add(F.normalize(features.x.double(), dim=1), features.labels)
    return geometry.sphere_variances(moments) | geometry.hard_negative_trio(moments)


def view_figures(job: Job, val: Features, options: Geometry) -> dict[str, float]:
    """Of two augmented views of each held-out image, rows of length 1."""
    views = []
    for epoch in (0, 1):
        images = dataclasses.replace(job.val_images, policy=job.data.policy, epoch=epoch, seed=options.seed)
        views.append(F.normalize(job.features(images).x.double(), dim=1))
    z = torch.stack(views)
    moments = ViewMoments(z.shape[2])
    moments.add(z)
    within = ClassMoments(len(val.classes), z.shape[2])
    within.add(z.flatten(0, 1), val.labels.repeat(2))
    spread = (within.scatter.sum() / within.count.sum()).item()
    return {
        "view_alignment": moments.alignment,
        "view_collapse": moments.view_collapse,
        "augmentation_to_class_variance": moments.augmentation_variance / spread if spread else 0.0,
        "effective_rank": moments.effective_rank,
        "uniformity": uniformity(_some(z[0], options)),
    }


def _some(x: Tensor, options: Geometry) -> Tensor:
    chosen = torch.randperm(len(x), generator=torch.Generator().manual_seed(options.seed))
    return x[chosen[: options.images]]


def classifier_figures(job: Job, moments: ClassMoments, x: Tensor) -> dict[str, float]:
    """NC3 and NC4 of a run that trained a classifier on its features; nothing of others."""
    if job.target.kind != "run" or not moments.present.all():
        return {}
    if Config.load(job.target.place / "config.json").loss.name != "cross_entropy":
        return {}
    path = RunFolder(job.target.place).last / CHECKPOINT_FILE
    weight, bias = read_some(path, [f"{CLASSIFIER_PREFIX}{name}" for name in ("weight", "bias")])
    if weight.shape != (len(moments.count), x.shape[1]) or bias.shape != weight.shape[:1]:
        raise UserError(f"{path} holds a classifier of {list(weight.shape)}: evaluate with the data of the run")
    return geometry.nc3(moments, weight, bias) | {"nc4": geometry.nc4(moments, weight, bias, x)}


def threshold_figures(job: Job, classes: int) -> dict[str, float]:
    """alpha* of SSEM in the batches of the run: what its `--loss.alpha` has to exceed."""
    if job.target.kind != "run":
        return {}
    threshold = batch_threshold(Config.load(job.target.place / "config.json"), classes)
    return {} if threshold is None else {"ssem_collapse_threshold": threshold}


def few_shot_row(
    train: Features,
    val: Features,
    moments: ClassMoments,
    directional: DirectionalMoments,
    shots: int,
    options: Geometry,
) -> dict:
    """Errors and, from as many shots as the proofs ask for, the three bounds. Over all classes at once."""
    drawn = {"repeats": options.draws, "seed": options.seed}
    errors = few_shot_errors(train.x, train.labels, val.x, val.labels, shots, **drawn)
    row = {"shots": shots, "nearest_mean_error": errors["nearest_mean"], "probe_error": errors["probe"]}
    if shots >= FEWEST_SHOTS:
        V, V_dir = geometry.cdnv(moments), geometry.directional_cdnv(moments, directional)
        classes = int(moments.present.sum())
        row["bound_first"] = first_bound(V_dir, V, shots, classes)
        row["bound_camera_ready"] = camera_ready_bound(V_dir, V, shots, classes)
        row["bound_pairwise"] = pairwise_bound(moments, directional, shots)
    return row


def _line(row: dict) -> str:
    text = (
        f"{row['shots']:>4} shots: nearest mean {row['nearest_mean_error']:.2%}, probe {row['probe_error']:.2%} wrong"
    )
    if "bound_first" in row:
        bounds = (f"{name} {row[f'bound_{name}']:.3g}" for name in ("first", "camera_ready", "pairwise"))
        text += f"; bounds: {', '.join(bounds)}"
    return text
