"""What a file eval/NAME.json holds. Every one that is read is checked here: those who show figures trust them."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from fastvarcon.json_shape import COUNT, FIGURE, SHARE, Each, Maybe, Number, Text, misfit

TEXT, POSITIVE, GRID = Text(), Number(1, 2.0**31, whole=True), Number(0, 1e6)
COMMON = {
    "name": TEXT,
    "features": TEXT,
    "title?": TEXT,
    "encoder_sha256?": Maybe(TEXT),
    "protocol?": TEXT,
    "command": TEXT,
    "seed": Number(0, 2.0**63, whole=True),
    "seconds": Number(0, 1e12),
    "num_val?": COUNT,
    "top1?": SHARE,
    "top1_std?": Maybe(SHARE),
    "top5?": Maybe(SHARE),
    "data.train?": Maybe(TEXT),
    "data.val?": Maybe(TEXT),
}
AGREEMENT = dict.fromkeys(("ari", "nmi", "v_measure", "homogeneity", "completeness", "purity"), FIGURE)
FEW_SHOT_ROW = {"method": TEXT, "shots": POSITIVE, "half_width": Number(0)}

SHAPES: dict[str, dict[str, Any]] = {
    "linear": {
        "top1": SHARE,
        "top1_std": Maybe(SHARE),
        "top1_by_seed": [SHARE],
        "top5": Maybe(SHARE),
        "best_epoch_top1_test_selected": SHARE,
        "lr": FIGURE,
        "decay": FIGURE,
        "curve": [{"epochs": [COUNT], "top1": [SHARE]}],
    },
    "knn": {
        "top1": SHARE,
        "k": COUNT,
        "top1_by_k": Each(SHARE),
        "weighted_top1_by_k": Each(SHARE),
        "temperature": FIGURE,
        "nearest_class_mean_top1": SHARE,
    },
    "few-shot": {
        "rows": [{**FEW_SHOT_ROW, "encoder": TEXT, "mean": SHARE}],
        "differences": [{**FEW_SHOT_ROW, "mean": Number(-1, 1)}],
        "shots": [POSITIVE],
    },
    "transfer": {
        "top1": SHARE,
        "rows": [
            {
                "val": TEXT,
                "logistic_top1": SHARE,
                "logistic_class_mean": SHARE,
                "strength": FIGURE,
                "fine_tuned_top1?": SHARE,
                "num_train": COUNT,
                "num_val": COUNT,
            }
        ],
    },
    "corruption": {
        "top1": SHARE,
        "clean_top1": SHARE,
        "errors": Each(Each(SHARE)),
        "mean_error": FIGURE,
        "relative_mean_error": FIGURE,
        "mce": Maybe(FIGURE),
        "relative_mce": Maybe(FIGURE),
        "doubts?": [TEXT],
    },
    "clustering": {
        **AGREEMENT,
        "class_tree": [[Number(0)]],
        "class_names": [TEXT],
        "superclasses": Maybe({**AGREEMENT, "cophenetic_correlation": FIGURE}),
    },
    "embed": {
        "maps": [{"checkpoint": TEXT, "method": TEXT, "places": [[GRID]]}],
        "grid": GRID,
        "labels": [COUNT],
        "classes": [TEXT],
        "thumbnails": Maybe(TEXT),
        "thumbnail_columns": POSITIVE,
    },
    "calibration": {
        "top1": SHARE,
        "ece": SHARE,
        "mce": SHARE,
        "nll": FIGURE,
        "brier": FIGURE,
        "bins": [{"from": SHARE, "to": SHARE, "count": COUNT, "confidence": Maybe(SHARE), "accuracy": Maybe(SHARE)}],
    },
}
"""Of the evaluations whose section has a form of its own; of others every number is shown."""


def check(result: dict) -> str | None:
    """What keeps figures that were read from being a score, in a few words; None if nothing does."""
    wrong = misfit(result, COMMON)
    if wrong:
        return wrong
    if result["features"] not in ("encoder", "pixels"):
        return "its features are neither of an encoder nor pixels"
    if "top1" in result and "protocol" not in result:
        return "it has no 'protocol'"
    numbers = ((name, value) for name, value in result.items() if isinstance(value, int | float))
    return next((f"{name} is too large" for name, value in numbers if abs(value) > 1e300), None)


def check_details(result: dict) -> str | None:
    """What keeps a score from being shown in all its figures; None if nothing does."""
    wrong = misfit(result, SHAPES.get(result["name"], {}))
    if wrong or result["name"] not in CONSISTENT:
        return wrong
    return None if CONSISTENT[result["name"]](result) else "its figures contradict each other"


def _linear(result: dict) -> bool:
    curves = result["curve"]
    return all(len(one["epochs"]) == len(one["top1"]) for one in curves)


def _knn(result: dict) -> bool:
    by_k = result["top1_by_k"]
    return list(by_k) == list(result["weighted_top1_by_k"]) and all(map(_is_number, by_k))


def _few_shot(result: dict) -> bool:
    """A row for every encoder, method and number of images; differences for every method."""
    rows, differences, shots = result["rows"], result["differences"], result["shots"]
    encoders, methods = ({row[column] for row in rows} for column in ("encoder", "method"))
    cells = {(row["encoder"], row["method"], row["shots"]) for row in rows}
    differing = {(row["method"], row["shots"]) for row in differences}
    return (
        bool(rows)
        and len(encoders) * len(methods) * len(set(shots)) <= len(cells)
        and all((e, m, s) in cells for e in encoders for m in methods for s in shots)
        and (not differences or all((m, s) in differing for m in methods for s in shots))
    )


def _corruption(result: dict) -> bool:
    errors = list(result["errors"].values())
    return bool(errors and errors[0]) and all(
        row.keys() == errors[0].keys() and all(map(_is_number, row)) for row in errors
    )


def _clustering(result: dict) -> bool:
    """A row of four numbers joins two of the classes and earlier rows, each of them once."""
    tree, classes = result["class_tree"], len(result["class_names"])
    if len(tree) != classes - 1 or not tree or any(len(row) != 4 for row in tree):
        return False
    joined = [one for row in tree for one in row[:2]]
    early = all(max(row[:2]) < classes + index for index, row in enumerate(tree))
    return early and len(set(joined)) == len(joined) and all(float(one).is_integer() for one in joined)


def _embed(result: dict) -> bool:
    labels, thumbnails = result["labels"], result["thumbnails"]
    return (
        all(len(one["places"]) == len(labels) and all(len(at) == 2 for at in one["places"]) for one in result["maps"])
        and max(labels, default=0) < len(result["classes"])
        and (thumbnails is None or re.fullmatch(r"[A-Za-z0-9+/=]*", thumbnails) is not None)
    )


def _calibration(result: dict) -> bool:
    bins = result["bins"]
    filled = [one for one in bins if one["count"]]
    return bool(filled) and all(None not in (one["confidence"], one["accuracy"]) for one in filled)


CONSISTENT: dict[str, Callable[[dict], bool]] = {
    "linear": _linear,
    "knn": _knn,
    "few-shot": _few_shot,
    "corruption": _corruption,
    "clustering": _clustering,
    "embed": _embed,
    "calibration": _calibration,
}


def _is_number(text: str) -> bool:
    """Digits of a number that is small enough for a table."""
    return re.fullmatch(r"[0-9]{1,9}", text) is not None
