"""A section of report.html for each file of eval/: figures, pictures, and the command they come from.

`SECTIONS` maps the name of an evaluation to a function from its figures to HTML. An evaluation without one is shown as
a plain table of its numbers.
"""

from __future__ import annotations

from collections.abc import Callable

from fastvarcon.reporting import charts
from fastvarcon.reporting.page import picture, pictures, shown, source, table
from fastvarcon.reporting.scatter import scatter
from fastvarcon.reporting.tables import percent
from fastvarcon.reporting.titles import kind_of


def section(stem: str, result: dict, old: bool) -> str:
    """`result`: as evaluation/figures.py has checked it. `old`: the encoder has been replaced since."""
    title = kind_of(stem)
    title = (title if title[1:2].isupper() else title.capitalize()) + (
        " on raw pixels" if result["features"] == "pixels" else ""
    )
    body = "<p><b>Of an EARLIER encoder: run eval again.</b></p>" if old else ""
    body += SECTIONS.get(result["name"], _plain)(result)
    return f'<section id="{shown(stem)}"><h2>{shown(title)}</h2>{body}{source(result)}</section>'


def _plain(result: dict) -> str:
    shown = {name: value for name, value in result.items() if isinstance(value, float | int) and name not in NOT_SHOWN}
    return table(("figure", "value"), [(name, f"{value:,.4g}") for name, value in shown.items()])


NOT_SHOWN = ("seed", "seconds", "size", "world_size")


def _linear(result: dict) -> str:
    rows = [("last epoch, the headline", percent(result["top1"], result["top1_std"]))]
    if result["top5"] is not None:
        rows.append(("last epoch, top-5", percent(result["top5"])))
    rows.append(("best epoch, SELECTED ON THE TEST IMAGES", percent(result["best_epoch_top1_test_selected"])))
    rows += [(f"seed {seed}", percent(top1)) for seed, top1 in enumerate(result["top1_by_seed"], result["seed"])]
    rows.append(("learning rate, weight decay", f"{result['lr']:g}, {result['decay']:g}"))
    drawn = charts.accuracy_over_epochs(result["curve"])
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


def _few_shot(result: dict) -> str:
    encoders = list(dict.fromkeys(row["encoder"] for row in result["rows"]))
    methods = list(dict.fromkeys(row["method"] for row in result["rows"]))
    cell = {(row["encoder"], row["method"], row["shots"]): _interval(row) for row in result["rows"]}
    lines = [(e, m, *(cell[e, m, shots] for shots in result["shots"])) for e in encoders for m in methods]
    for method in methods if result["differences"] else ():
        by_shots = {row["shots"]: _interval(row) for row in result["differences"] if row["method"] == method}
        lines.append(("difference", method, *(by_shots[shots] for shots in result["shots"])))
    header = ("encoder", "method", *(f"{shots} a class" for shots in result["shots"]))
    drawn = charts.few_shot(result["rows"])
    return table(header, lines, text_columns=2) + pictures(
        [picture("Top-1 by images a class", drawn, "Accuracy over the number of labelled images a class")]
    )


def _interval(row: dict) -> str:
    return percent(row["mean"], row["half_width"])


def _transfer(result: dict) -> str:
    lines = [
        (
            row["val"],
            percent(row["logistic_top1"]),
            percent(row["logistic_class_mean"]),
            f"{row['strength']:g}",
            percent(row["fine_tuned_top1"]) if "fine_tuned_top1" in row else "",
            f"{row['num_train']:,} / {row['num_val']:,}",
        )
        for row in result["rows"]
    ]
    return table(("held-out file", "logistic", "mean over classes", "C", "fine-tuned", "images"), lines)


def _corruption(result: dict) -> str:
    severities = list(next(iter(result["errors"].values())))
    lines = [
        (name.replace("_", " "), *(percent(row[s]) for s in severities), percent(sum(row.values()) / len(row)))
        for name, row in result["errors"].items()
    ]
    summary = [("clean images", percent(1 - result["clean_top1"])), ("mean error", percent(result["mean_error"]))]
    summary.append(("mean error above that of clean images", percent(result["relative_mean_error"])))
    if result["mce"] is not None:
        summary += [("mCE", percent(result["mce"])), ("relative mCE", percent(result["relative_mce"]))]
    drawn = charts.corruption(result["errors"], 1 - result["clean_top1"])
    doubts = "".join(f"<p><b>{shown(doubt)}.</b></p>" for doubt in result.get("doubts", []))
    return (
        doubts
        + table(("error", ""), summary)
        + table(("corruption", *(f"severity {s}" for s in severities), "mean"), lines)
        + pictures([picture("Error by severity", drawn, "Error over severity, a line for every corruption")])
    )


def _clustering(result: dict) -> str:
    names = ("ari", "nmi", "v_measure", "homogeneity", "completeness", "purity")
    found = result["superclasses"]
    header = ("measure", "images and classes") + (() if found is None else ("class means and superclasses",))
    lines = [(TITLES[n], f"{result[n]:.3f}", *(() if found is None else (f"{found[n]:.3f}",))) for n in names]
    if found is not None:
        lines.append(("cophenetic correlation", "", f"{found['cophenetic_correlation']:.3f}"))
    tree = result["class_tree"]
    if len(tree) > CLASSES_DRAWN or depth(tree) > DEEPEST:
        return table(header, lines) + f"<p>The tree of {len(tree) + 1:,} class means is too large to be drawn.</p>"
    drawn = charts.dendrogram(tree, result["class_names"])
    return table(header, lines) + pictures(
        [picture("Tree of class means", drawn, "Dendrogram of the classes, with their names")]
    )


CLASSES_DRAWN, DEEPEST = 1500, 500
"""Of a tree: more would be higher than pictures are, and scipy's drawing calls itself once a level."""


def depth(tree: list[list[float]]) -> int:
    """Levels of a tree as scipy's `linkage` writes it."""
    levels = [0] * (len(tree) + 1)
    for one, other, *_ in tree:
        levels.append(1 + max(levels[int(one)], levels[int(other)]))
    return levels[-1]


TITLES = {
    "ari": "adjusted Rand index",
    "nmi": "normalised mutual information",
    "v_measure": "V-measure",
    "homogeneity": "homogeneity",
    "completeness": "completeness",
    "purity": "purity",
}


def _calibration(result: dict) -> str:
    lines = [
        ("expected calibration error", percent(result["ece"])),
        ("largest error of a bin", percent(result["mce"])),
        ("negative log-likelihood", f"{result['nll']:.4f} nats"),
        ("Brier score", f"{result['brier']:.4f}"),
        ("top-1", percent(result["top1"])),
    ]
    drawn = charts.reliability(result["bins"])
    return table(("calibration of the probe", ""), lines) + pictures(
        [picture("Reliability", drawn, "Accuracy over confidence, and the share of images at each confidence")]
    )


SECTIONS: dict[str, Callable[[dict], str]] = {
    "linear": _linear,
    "knn": _knn,
    "few-shot": _few_shot,
    "transfer": _transfer,
    "corruption": _corruption,
    "clustering": _clustering,
    "embed": scatter,
    "calibration": _calibration,
}
