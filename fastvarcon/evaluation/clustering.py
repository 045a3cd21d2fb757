"""Hierarchical clustering of held-out embeddings, and of class means, on unit rows.

The tree of images is cut at as many clusters as there are classes and compared with the labels. The tree of class means
is drawn, and compared with superclasses where a file names them: cut at their number, and by the correlation of the
height at which two classes meet with whether their superclasses differ.
"""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from fastvarcon.errors import UserError
from fastvarcon.evaluation.job import Job
from fastvarcon.evaluation.options import Clustering
from fastvarcon.evaluation.splits import at_most


def run(job: Job, options: Clustering) -> dict:
    from scipy.cluster.hierarchy import cophenet, linkage
    from scipy.spatial.distance import pdist

    file = options.superclasses
    superclass_of = None if file is None else read_superclasses(file)
    val = job.val()
    present = val.labels.unique()
    if len(present) < 2:
        raise UserError(f"{job.data.val} has images of one class alone: clustering needs two")
    names = [val.classes[label] for label in present]
    supers = None if file is None or superclass_of is None else superclass_labels(names, superclass_of, file)
    chosen = at_most(val.labels, options.images, torch.Generator().manual_seed(options.seed))
    if len(chosen) < len(present):
        raise UserError(f"--images {options.images} are fewer than the {len(present)} classes: choose more")
    x, labels = F.normalize(val.x, dim=1).double(), val.labels.numpy()
    found = agreement(linkage(x[chosen].numpy(), options.linkage), labels[chosen], len(present))
    means = torch.stack([x[val.labels == label].mean(0) for label in present]).numpy()
    tree = linkage(means, "average")
    figures = {
        **found,
        "linkage": options.linkage,
        "num_val": len(chosen),
        "num_classes": len(present),
        "class_names": names,
        "class_tree": tree.tolist(),
        "class_tree_cophenetic": float(cophenet(tree, pdist(means))[0]),
        "superclasses": None,
        "protocol": f"{options.linkage} linkage of {len(chosen):,} unit embeddings, cut at {len(present)} clusters; "
        "average linkage of class means",
    }
    if supers is not None:
        figures["superclasses"] = against_superclasses(tree, supers) | {"file": str(file)}
    figures["lines"] = _lines(figures)
    return figures


def agreement(tree: np.ndarray, labels: np.ndarray, clusters: int) -> dict[str, float]:
    """ARI, NMI, homogeneity, completeness, V and purity of the tree cut at `clusters`."""
    from scipy.cluster.hierarchy import fcluster
    from sklearn import metrics

    assigned = fcluster(tree, clusters, "maxclust")
    homogeneity, completeness, v_measure = metrics.homogeneity_completeness_v_measure(labels, assigned)
    table = metrics.cluster.contingency_matrix(labels, assigned)
    return {
        "ari": float(metrics.adjusted_rand_score(labels, assigned)),
        "nmi": float(metrics.normalized_mutual_info_score(labels, assigned)),
        "homogeneity": float(homogeneity),
        "completeness": float(completeness),
        "v_measure": float(v_measure),
        "purity": float(table.max(axis=0).sum() / table.sum()),
        "clusters": int(assigned.max()),
    }


def against_superclasses(tree: np.ndarray, supers: np.ndarray) -> dict[str, float]:
    """Agreement of the tree of class means with the superclass of each class, [classes] int."""
    from scipy.cluster.hierarchy import cophenet
    from scipy.spatial.distance import pdist

    differ = pdist(supers[:, None], lambda a, b: float(a[0] != b[0]))
    return {
        **agreement(tree, supers, len(np.unique(supers))),
        "count": len(np.unique(supers)),
        "cophenetic_correlation": float(np.corrcoef(cophenet(tree), differ)[0, 1]),
    }


def read_superclasses(path: Path) -> dict[str, str]:
    """{class: superclass} of a CSV file with a line CLASS,SUPERCLASS for each. Raises UserError if it is none."""
    try:
        with open(path, newline="", encoding="utf-8") as file:
            rows = [[cell.strip() for cell in row] for row in csv.reader(file) if row]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--superclasses {path} cannot be read ({error})") from None
    for number, row in enumerate(rows, 1):
        if len(row) != 2 or not all(row):
            raise UserError(f"--superclasses {path} line {number} is not CLASS,SUPERCLASS")
    return dict(rows)


def superclass_labels(names: list[str], superclass_of: dict[str, str], path: Path) -> np.ndarray:
    """Number of the superclass of each class. Raises UserError for a class without one, or a single group."""
    missing = [name for name in names if name not in superclass_of]
    if missing:
        raise UserError(f"--superclasses {path} lacks {len(missing)} classes, {missing[0]!r} among them")
    kinds = sorted({superclass_of[name] for name in names})
    if not 2 <= len(kinds) < len(names):
        raise UserError(f"--superclasses {path} makes {len(kinds)} groups of {len(names)} classes: nothing to compare")
    return np.array([kinds.index(superclass_of[name]) for name in names])


def _lines(figures: dict) -> list[str]:
    lines = ["  ".join(f"{name.upper()} {figures[name]:.3f}" for name in ("ari", "nmi", "purity"))]
    lines.append("  ".join(f"{name} {figures[name]:.3f}" for name in ("homogeneity", "completeness")))
    if figures["superclasses"] is not None:
        found = figures["superclasses"]
        lines.append(
            f"superclasses: ARI {found['ari']:.3f}, cophenetic correlation {found['cophenetic_correlation']:.3f}"
        )
    return lines
