"""Robustness of the linear probe to corruptions (Hendrycks & Dietterich 2019).

With E[s, c] the top-1 error at severity s of corruption c, E[clean] that without, and A those of AlexNet on ImageNet-C:

    CE[c]          = sum_s E[s, c] / sum_s A[s, c]                                          mCE: mean over c
    relative CE[c] = sum_s (E[s, c] - E[clean]) / sum_s (A[s, c] - A[clean])                relative mCE: mean over c
"""

from __future__ import annotations

import dataclasses
import statistics
from pathlib import Path

from fastvarcon.errors import UserError
from fastvarcon.evaluation.corrupted_sets import CifarC, clean_images, stored_images, stored_sets
from fastvarcon.evaluation.corruptions import CORRUPTIONS, find
from fastvarcon.evaluation.features import Features, check_labels, counts
from fastvarcon.evaluation.images import Images
from fastvarcon.evaluation.job import Job
from fastvarcon.evaluation.linear import linear_probe, on_device
from fastvarcon.evaluation.options import Corruption
from fastvarcon.evaluation.scores import top_k

CLEAN_APART, FAR = 0.05, 0.5
"""Beyond them the labels of a published set are doubted: difference of its top-1 without corruption from ours, and what
the least corruption leaves of it."""
ALEXNET_CLEAN = 0.435  # Hendrycks & Dietterich 2019, table 1
ALEXNET = {  # sums over the severities / 5, from the README of github.com/hendrycks/robustness
    "gaussian_noise": 0.886428,
    "shot_noise": 0.894468,
    "impulse_noise": 0.922640,
    "defocus_blur": 0.819880,
    "glass_blur": 0.826268,
    "motion_blur": 0.785948,
    "zoom_blur": 0.798360,
    "snow": 0.866816,
    "frost": 0.826572,
    "fog": 0.819324,
    "brightness": 0.564592,
    "contrast": 0.853204,
    "elastic_transform": 0.646056,
    "pixelate": 0.717840,
    "jpeg_compression": 0.606500,
}


def run(job: Job, options: Corruption) -> dict:
    severities = tuple(sorted(set(options.severities)))
    train_images, val_images = job.alike(job.train_images, job.val_images)
    sets = _sets(options, severities, val_images)
    _check_first(job, sets)
    train, val = job.pair(train_images, val_images)
    alexnet = options.normalise == "alexnet" or (options.normalise == "auto" and len(train.classes) == 1000)
    if alexnet and (severities != (1, 2, 3, 4, 5) or set(sets) - set(ALEXNET)):
        if options.normalise == "alexnet":
            raise UserError("--normalise alexnet needs all five severities of standard corruptions")
        alexnet = False
    _, _, predict = linear_probe(*on_device(train, val, job.device), len(train.classes), options.seed, seeds=1)

    def error(features: Features) -> float:
        return 1 - top_k(predict(features.x.to(job.device)).cpu(), features.labels, 1)

    clean = error(val)
    errors = {
        name: {str(severity): error(_features(job, images)) for severity, images in by_severity.items()}
        for name, by_severity in sets.items()
    }
    made = options.source is None
    doubts = []
    if options.source is not None:
        stored = clean_images(options.source, val_images.classes)
        doubts = _doubts(clean, errors, None if stored is None else error(_features(job, stored)), options.source)
    return {
        "top1": 1 - statistics.mean(statistics.mean(row.values()) for row in errors.values()),
        "clean_top1": 1 - clean,
        "errors": errors,
        **mean_errors(errors, clean, alexnet),
        "source": None if made else str(options.source),
        "doubts": doubts,
        "protocol": "linear probe (protocol fast, one seed), mean over severities and corruptions; "
        + ("corruptions made here, the frost drawn" if made else f"images of {options.source}")
        + ("; divided by AlexNet's errors" if alexnet else "; not divided by AlexNet's errors"),
        "lines": [
            *(f"{name:<18} " + "  ".join(f"{value:.2%}" for value in row.values()) for name, row in errors.items()),
            *(f"warning: {doubt}" for doubt in doubts),
        ],
        **counts(train, val),
    }


def mean_errors(errors: dict[str, dict[str, float]], clean: float, alexnet: bool) -> dict[str, float | None]:
    """Mean errors over corruptions, and, with all five severities, those relative to AlexNet."""
    means = {name: statistics.mean(row.values()) for name, row in errors.items()}
    figures: dict[str, float | None] = {
        "mean_error": statistics.mean(means.values()),
        "relative_mean_error": statistics.mean(means.values()) - clean,
        "mce": None,
        "relative_mce": None,
    }
    if alexnet:
        figures["mce"] = statistics.mean(means[name] / ALEXNET[name] for name in means)
        figures["relative_mce"] = statistics.mean(
            (means[name] - clean) / (ALEXNET[name] - ALEXNET_CLEAN) for name in means
        )
    return figures


def _doubts(clean: float, errors: dict[str, dict[str, float]], stored: float | None, source: Path) -> list[str]:
    """What speaks against the labels of a published set: its images are far worse than ours before they are corrupted.

    Args:
        clean: error on the held-out images.
        stored: error on the images of the set without corruption, where it has them. Else the least error at severity 1
            has to do.
    """
    least = [row["1"] for row in errors.values() if "1" in row]
    if stored is not None:
        theirs, what, wrong = stored, "its images without corruption", abs(stored - clean) > CLEAN_APART
    elif least:
        theirs, what, wrong = min(least), "its least corrupted images", 1 - min(least) < FAR * (1 - clean)
    else:
        return []
    text = (
        f"{source}: top-1 is {1 - theirs:.2%} on {what} and {1 - clean:.2%} on the held-out images: check that its "
        "labels belong to its images, that its numbers mean these classes (classes.txt), and that all images are alike"
    )
    return [text] if wrong else []


def _sets(options: Corruption, severities: tuple[int, ...], clean: Images) -> dict[str, dict[int, Images]]:
    """Images by corruption and severity, labels numbered as those of the clean images.

    What is missing is told before anything is computed.
    """
    if options.source is not None:
        found = stored_sets(options.source, options.corruptions)
        sets = {
            name: {
                severity: stored_images(options.source, folder, name, severity, clean.classes)
                for severity in severities
            }
            for name, folder in found.items()
        }
    else:
        for name in options.corruptions:
            find(name)
        sets = {
            name: {
                severity: dataclasses.replace(clean, corruption=name, severity=severity, seed=options.seed % 2**63)
                for severity in severities
            }
            for name in options.corruptions or tuple(CORRUPTIONS)
        }
    for by_severity in sets.values():
        for images in by_severity.values():
            if images.backend == "cifar-c":
                CifarC(images.path, str(images.corruption), images.severity, images.classes).close()
            elif not images.path.exists():
                raise UserError(f"{images.path} does not exist: give --severities that the source holds")
    return sets


def _check_first(job: Job, sets: dict[str, dict[int, Images]]) -> None:
    """Raise UserError where the classes of the first set are others, before the features of any are made."""
    images = next(iter(next(iter(sets.values())).values()))
    images.open(job.workers, job.device, job.data).close()


def _features(job: Job, images: Images) -> Features:
    """Of one corrupted set."""
    found = job.features(images)
    check_labels(found, "--source")
    return found
