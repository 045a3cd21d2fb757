"""Tables of scores: what was trained and how it scored, from runs.csv, studies.csv and evaluation.csv."""

from __future__ import annotations

import re
import statistics
from collections.abc import Callable, Iterable

from tables_cells import Row, every_row, number, once, percent, rows, table

from fastvarcon.evaluation.intervals import wilson

RUNS = {
    "digits": "`make demo`: scanned digits, a narrow ResNet-18",
    "cifar10-cpu": "CIFAR-10, 5,000 training images, ResNet-18 of width 1/4",
    "cifar10-quarter60": "CIFAR-10, 50,000 training images, ResNet-18 of width 1/4",
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
    head = ("run", "epochs", "training time", "linear", "kNN", "kNN on raw pixels", "held-out images")
    return table(head, body, (("runs", row) for row in found))


def demo() -> str:
    row = rows("runs", run="digits")[-1]
    names = {
        "VarCon linear": "linear_top1",
        "VarCon kNN (k = 20)": "knn_top1",
        "raw-pixel kNN (k = 20)": "pixel_knn_top1",
    }
    count = int(row["num_val"])
    body = [
        (name, percent(row[column]), interval(float(row[column]), count), str(count)) for name, column in names.items()
    ]
    return table(("score", "top-1", "95 % interval", "held-out images"), body, [("runs", row)])


def interval(share: float, count: int) -> str:
    """As `fastvarcon eval` and the report print it."""
    low, high = wilson(share, count)
    return f"{100 * low:.1f} to {100 * high:.1f} %"


def studies(wanted: Callable[[Row], bool]) -> str:
    """Mean ± standard deviation over seeds of each point among the wanted rows; of each seed the newest row."""
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
    """Both protocols of the linear probe on every encoder that has both; of each the newest row."""
    fast, paper = (
        {encoder_of(row): row for row in rows("evaluation", task=f"protocol {name}")} for name in ("fast", "paper")
    )
    body = [
        (
            encoder,
            *(cell for row in (fast[encoder], paper[encoder]) for cell in (probed(row), number(row["seconds"]))),
            f"{100 * abs(float(fast[encoder]['top1']) - float(paper[encoder]['top1'])):.2f}",
            f"{number(float(paper[encoder]['seconds']) / float(fast[encoder]['seconds']))}x",
        )
        for encoder in fast
        if encoder in paper
    ]
    head = ("encoder trained on", "fast", "seconds", "paper", "seconds", "difference in points", "time paper / fast")
    return table(head, body, (("evaluation", row) for way in (fast, paper) for row in way.values()))


def probed(row: Row) -> str:
    """Top-1 and its standard deviation over the seeds of the probe."""
    deviation = float(re.match(r"std ([\d.]+)", row["detail"])[1])
    return f"{100 * float(row['top1']):.2f} ± {100 * deviation:.2f} %"


def encoder_of(row: Row) -> str:
    """What the probed encoder was trained on, from the training command at the end of the details."""
    command = row["detail"].split("; ", 1)[1]
    epochs = re.search(r"--train.epochs (\d+)", command)[1]
    return data_of({"command": command, "num_train": row["rows"], "epochs": epochs})


RECIPES = {"cifar10": "CIFAR-10", "cifar10_fast": "CIFAR-10", "cifar100": "CIFAR-100", "imagenette": "Imagenette"}


def recipe_of(row: Row) -> str:
    return re.search(r"recipes/(\w+)\.py", row["command"])[1]


def data_of(row: Row) -> str:
    """Dataset (known from the name of the recipe), number of images, width of the network and epochs of a run."""
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
    # VarCon and other losses on one budget: on photographs, and on scanned digits (which only test the machinery)
    "evidence": lambda: studies(lambda row: row["study"] == "against" and recipe_of(row) != "digits"),
    "against-digits": lambda: studies(lambda row: row["study"] == "against" and recipe_of(row) == "digits"),
    "studies": lambda: studies(lambda row: row["study"] != "against"),
}
