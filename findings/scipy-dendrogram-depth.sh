#!/usr/bin/env bash
# scipy draws no tree that is deep, though all else in scipy.cluster.hierarchy takes it. scipy 1.17.1, numpy 2.4.0, Python 3.11, 2026-11
#
# Expected: `dendrogram` lays out every linkage matrix that `is_valid_linkage` accepts, as `fcluster` and `cophenet` do, which are
# loops in C.
# Seen: a chain, in which every class joins the others one by one, raises RecursionError from about a thousand leaves on: the layout
# calls itself once a level. Class means of a thousand-class set under average or single linkage come near to that.
# Ours: the depth of a tree is counted before it is drawn (fastvarcon/reporting/sections.py).
# Exits with 1 when the behaviour changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --target "$folder" scipy==1.17.1 numpy==2.4.0
PYTHONPATH="$folder" python3 - <<'P'
import sys

import numpy as np
from scipy.cluster import hierarchy


def chain(leaves: int) -> np.ndarray:
    """Leaf 0 and 1, then leaf 2, then leaf 3: all distances grow."""
    rows = [[0, 1, 1.0, 2], *([leaves + step - 1, step + 1, 1.0 + step, step + 2] for step in range(1, leaves - 1))]
    return np.array(rows, dtype=float)


for leaves, deep in ((400, False), (1500, True)):
    tree = chain(leaves)
    assert hierarchy.is_valid_linkage(tree)
    assert len(set(hierarchy.fcluster(tree, 3, "maxclust"))) == 3 and len(hierarchy.cophenet(tree)) == leaves * (leaves - 1) // 2
    try:
        hierarchy.dendrogram(tree, no_plot=True)
        outcome = "laid out"
    except RecursionError:
        outcome = "RecursionError"
    print(f"chain of {leaves} leaves, valid: {outcome}")
    if (outcome == "RecursionError") != deep:
        sys.exit("the behaviour has changed")
P
