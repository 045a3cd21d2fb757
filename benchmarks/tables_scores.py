"""Tables of scores: what was trained, and how good it is, from runs.csv and studies.csv."""

from __future__ import annotations

import re
import statistics
from collections.abc import Callable, Iterable

from tables_cells import Row, every_row, number, once, percent, rows, table

RUNS = {
    "digits": "`make demo`: scanned digits, a narrow ResNet-18",
    "cifar10-cpu": "CIFAR-10, 5,000 training images, ResNet-18 of width 1/4",
    "imagenette-cpu": "Imagenette at 96 px, 4,000 training images, ResNet-18 of width 1/4",
}


def runs() -> str:
    found = [rows("runs", run=name)[-1] for name in RUNS]
    body = [
        (
            what,
            row["epochs"],
            f"{float(row['seconds']):.0f} s",
            percent(row["linear_top1"]),
            percent(row["knn_top1"]),
            percent(row["pixel_knn_top1"]),
            f"{int(row['num_val']):,}",
        )
        for what, row in zip(RUNS.values(), found, strict=True)
    ]
    head = ("run", "epochs", "training", "linear", "kNN", "kNN on pixels", "scored on")
    return table(head, body, (("runs", row) for row in found))


def demo() -> str:
    row = rows("runs", run="digits")[-1]
    names = {
        "VarCon linear": "linear_top1",
        "VarCon kNN (k = 20)": "knn_top1",
        "raw-pixel kNN (k = 20)": "pixel_knn_top1",
    }
    body = [(name, percent(row[column]), row["num_val"]) for name, column in names.items()]
    return table(("score", "top-1", "held-out images"), body, [("runs", row)])


def studies(wanted: Callable[[Row], bool]) -> str:
    """Mean ± standard deviation over seeds, the newest row of each, of all points of the wanted rows."""
    found = [row for row in every_row("studies") if wanted(row)]
    lines = {(row["study"], row["series"]) for row in found}
    alike: dict[tuple[str, ...], dict[str, Row]] = {}
    for row in found:
        several = sum(study == row["study"] for study, _ in lines) > 1
        point = f"{row['series']}, {row['point']}" if several else row["point"]
        alike.setdefault((row["study"], data_of(row), point), {})[row["seed"]] = row
    one_study = len({study for study, _ in lines}) == 1
    what = once([data if one_study else f"{study}: {data}" for study, data, _ in alike])
    body = [
        (name, point, str(len(by_seed)), mean(by_seed.values(), "linear_top1"), mean(by_seed.values(), "knn_top1"))
        for name, ((_, _, point), by_seed) in zip(what, alike.items(), strict=True)
    ]
    head = ("trained on" if one_study else "study", "point", "seeds", "linear", "kNN")
    return table(head, body, (("studies", row) for row in found))


def protocols() -> str:
    """The two protocols of the linear probe on the newest run that both were measured on."""
    found = [rows("evaluation", task=f"protocol {name}")[-1] for name in ("fast", "paper")]
    body = [
        (
            row["task"].split()[1],
            percent(row["top1"]),
            f"{100 * float(row['detail'].split()[1][:-1]):.2f} %",
            number(row["seconds"]),
        )
        for row in found
    ]
    return table(("protocol", "top-1", "deviation over seeds", "seconds"), body, (("evaluation", row) for row in found))


RECIPES = {"cifar10": "CIFAR-10", "cifar100": "CIFAR-100", "imagenette": "Imagenette"}


def recipe_of(row: Row) -> str:
    return re.search(r"recipes/(\w+)\.py", row["command"])[1]


def data_of(row: Row) -> str:
    """What a run was trained on, with how wide a network, and how long; the recipe is named after the dataset."""
    recipe = recipe_of(row)
    width = re.search(r"--model.width ([\d.]+)", row["command"])
    wide = f", width {width[1]}" if width else ""
    return f"{RECIPES.get(recipe, recipe)}, {int(row['num_train']):,} images{wide}, {row['epochs']} epochs"


def mean(found: Iterable[Row], column: str) -> str:
    values = [100 * float(row[column]) for row in found if row[column]]
    spread = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.2f}{spread} %" if values else ""


TABLES = {
    "demo": demo,
    "runs": runs,
    "protocols": protocols,
    # VarCon against other losses on one budget: on photographs, and on scanned digits, which show the machinery alone
    "evidence": lambda: studies(lambda row: row["study"] == "against" and recipe_of(row) != "digits"),
    "against-digits": lambda: studies(lambda row: row["study"] == "against" and recipe_of(row) == "digits"),
    "studies": lambda: studies(lambda row: row["study"] != "against"),
}
