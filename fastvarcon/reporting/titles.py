"""What losses and evaluations are called in tables and on pages."""

from __future__ import annotations

LOSS_TITLES = {
    "varcon": "VarCon",
    "supcon": "SupCon",
    "simclr": "SimCLR",
    "cross_entropy": "cross-entropy",
    "sincere": "SINCERE",
    "hscl": "H-SCL",
    **{name: name.upper() for name in ("dcl", "nscl", "ssem", "dhel", "kcl", "clop")},
}
KINDS = {
    "linear": "linear",
    "linear-paper": "linear, paper protocol",
    "knn": "kNN",
    "few-shot": "few-shot",
    "transfer": "transfer",
    "corruption": "corruption",
    "clustering": "clustering",
    "embed": "embedding",
    "calibration": "calibration",
    "geometry": "geometry of classes and views",
    "alignment": "alignment with another encoder",
}
ORDER = list(KINDS)


def kind_of(stem: str) -> str:
    """Of eval/STEM.json."""
    name = stem.removesuffix("-pixels")
    return KINDS.get(name, name)
