"""A section of report.html for each file of eval/: figures, pictures, and the command they come from.

`SECTIONS` maps the name of an evaluation to a function from its figures to HTML. An evaluation without one is shown as
a plain table of its numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from html import escape

from fastvarcon.reporting.page import picture, pictures, source, table
from fastvarcon.reporting.tables import KINDS, percent


def section(stem: str, result: dict) -> str:
    name = stem.removesuffix("-pixels")
    title = KINDS.get(name, name)
    title = title[:1].upper() + title[1:] + (" on raw pixels" if result["features"] == "pixels" else "")
    body = SECTIONS.get(result["name"], _plain)(result)
    return f'<section id="{escape(stem)}"><h2>{escape(title)}</h2>{body}{source(result)}</section>'


def _plain(result: dict) -> str:
    shown = {name: value for name, value in result.items() if isinstance(value, float | int) and name not in NOT_SHOWN}
    return table(("figure", "value"), [(name, f"{value:,.4g}") for name, value in shown.items()])


NOT_SHOWN = ("seed", "seconds", "size", "world_size")


def _linear(result: dict) -> str:
    from fastvarcon.reporting.charts import accuracy_over_epochs

    rows = [("last epoch, the headline", percent(result["top1"], result["top1_std"]))]
    if result["top5"] is not None:
        rows.append(("last epoch, top-5", percent(result["top5"])))
    rows.append(("best epoch, SELECTED ON THE TEST IMAGES", percent(result["best_epoch_top1_test_selected"])))
    rows += [(f"seed {seed}", percent(top1)) for seed, top1 in enumerate(result["top1_by_seed"], result["seed"])]
    rows.append(("learning rate, weight decay", f"{result['lr']:g}, {result['decay']:g}"))
    drawn = accuracy_over_epochs(result["curve"])
    return table(("linear probe", "top-1"), rows) + pictures(
        [picture("Held-out top-1 of each seed", drawn, "Held-out accuracy of the probe over its epochs")]
    )


def _knn(result: dict) -> str:
    rows = [
        (f"k = {k}" + (", the headline" if int(k) == result["k"] else ""), percent(top1), percent(weighted))
        for (k, top1), weighted in zip(result["top1_by_k"].items(), result["weighted_top1_by_k"].values(), strict=True)
    ]
    rows.append(("nearest class mean", percent(result["nearest_class_mean_top1"]), ""))
    return table(("neighbours", "majority", f"weighted, T = {result['temperature']:g}"), rows)


SECTIONS: dict[str, Callable[[dict], str]] = {"linear": _linear, "knn": _knn}
