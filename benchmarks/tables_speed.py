"""Tables of speed: ours against others, from the rows of `fastvarcon bench` and of the scripts in benchmarks/."""

from __future__ import annotations

import re
from dataclasses import dataclass

from tables_cells import Row, every_row, median, number, once, rows, spread, table

# ------------------------------------------------------------------------------------------------- feeding

DATASETS = {
    "nette-keep": "Imagenette, 224 px JPEG",
    "x8-keep": "ImageNet, originals",
    "x8-256": "ImageNet, `--preset 256`",
    "cifar-raw": "CIFAR-10, raw pixels",
    "samples-x8": "ImageNet, originals",
    "train": "Imagenette, 224 px JPEG",
    "cifar10-train5k": "CIFAR-10",
}
FED = {
    "decoded once; the GPU makes the views": {"task": "decode", "competitor": "fastvarcon cpu"},
    "both views on the CPU": {"task": "two views", "competitor": "fastvarcon cpu"},
    "both views, `resident`": {"task": "two views", "competitor": "fastvarcon resident"},
}


def loader() -> str:
    """Ours against torchvision's two-crop loader, all measurements of each."""
    measured = [
        (dataset, what, found)
        for dataset in ("nette-keep", "x8-keep", "x8-256", "cifar-raw")
        for what, ours in FED.items()
        if (dataset, what) != ("cifar-raw", "decoded once; the GPU makes the views")  # nothing to decode
        and (found := [row for row in every_row("loader") if row.items() >= {**ours, "dataset": dataset}.items()])
    ]
    body = [
        (name, what, number(median(found, "pairs_per_second")), spread(found, "ratio_to_torchvision"))
        for name, (_, what, found) in zip(
            once([DATASETS[dataset] for dataset, _, _ in measured]), measured, strict=True
        )
    ]
    head = ("images", "what comes out", "per second", "times torchvision")
    return table(head, body, (("loader", row) for _, _, found in measured for row in found))


# ------------------------------------------------------------------------------------------------- the rest, ours


@dataclass(frozen=True)
class Line:
    """What ours does in its newest row, and how many times as fast as something else that is."""

    what: str
    csv: str
    ours: Row  # the columns that pick the row
    figure: str  # the column that is shown
    unit: str
    against: str = ""
    ratio: str = ""  # a column, with its range in RATIO_min and RATIO_max; or
    other: str = ""  # the competitor whose time, measured by the same command, is divided by ours

    def row(self) -> Row:
        return rows(self.csv, **self.ours)[-1]

    def cells(self) -> tuple[str, str, str, str]:
        row = self.row()
        ratio = spread([row], self.ratio) if self.ratio else ""
        if self.other:
            theirs = rows(self.csv, command=row["command"], shape=row["shape"], competitor=self.other)[-1]
            ratio = number(float(theirs[self.figure]) / float(row[self.figure]))
        elif "memory_ratio" in row:
            ratio += f", in {number(row['memory_ratio'])} of the memory"
        return self.what, f"{number(row[self.figure])} {self.unit}", self.against, ratio


NUMBA = {"device": "cpu", "competitor": "fastvarcon numba"}
CLOSED = {"device": "cpu", "competitor": "fastvarcon closed"}
VARCON = CLOSED | {"shape": "N=8192 D=128 C=1000"}
SUPCON = CLOSED | {"shape": "N=4096 D=128 C=100"}
STEP = {"dataset": "cifar10-train5k", "width": "0.25", "competitor": "fastvarcon, real data"}
CONVERT = {"dataset": "samples-x8", "settings": "max-resolution 256"}
KEEP = {"dataset": "samples-x8", "settings": "keep"}
VIEWS = ("views_per_second", "views/s", "torchvision v2, float", "ratio_to_torchvision")
WRITER = ("fastvarcon_images_per_second", "images/s", "the ffcv package", "ratio")
SPEED = (
    Line("SimAugment at 224 px", "kernels_views", NUMBA | {"size": "224"}, *VIEWS),
    Line("SimAugment at 32 px", "kernels_views", NUMBA | {"size": "32"}, *VIEWS),
    Line(
        "VarCon, 8,192 rows, 1,000 classes", "kernels_varcon", VARCON, "wall_ms", "ms", "the paper in torch", "speedup"
    ),
    Line("", "kernels_varcon", VARCON, "wall_ms", "ms", "the same, compiled", other="reference, torch.compile"),
    Line("SupCon, 4,096 rows", "kernels_contrastive", SUPCON, "wall_ms", "ms", "the N x N formula", "speedup"),
    Line("", "kernels_contrastive", SUPCON, "wall_ms", "ms", "the same, compiled", other="reference, torch.compile"),
    Line(
        "step of a narrow ResNet-18", "step", STEP, "views_per_second", "views/s", "the reference", "ratio_to_reference"
    ),
    Line("convert ImageNet, 256 px", "convert", CONVERT, *WRITER),
    Line("convert ImageNet as it is", "convert", KEEP, *WRITER),
)


def speed() -> str:
    return table(("what", "ours", "against", "times as fast"), (line.cells() for line in SPEED), (
        (line.csv, line.row()) for line in SPEED))  # fmt: skip


# ------------------------------------------------------------------------------------------------- everybody measured


@dataclass(frozen=True)
class Field:
    """All who ran in one benchmark. Of each thing measured, the run with most of them, the newest of equals."""

    csv: str
    by: str  # the column that says what is measured
    columns: dict[str, str]  # heading -> column

    def newest(self) -> list[Row]:
        runs: dict[tuple[str, str], list[list[Row]]] = {}
        for row in every_row(self.csv):
            alike = runs.setdefault((row[self.by], row["machine"]), [])
            if not alike or who(row) in map(who, alike[-1]) or row["command"] != alike[-1][0]["command"]:
                alike.append([])
            alike[-1].append(row)
        return [row for alike in runs.values() for row in max(reversed(alike), key=len)]

    def text(self) -> str:
        found = self.newest()
        names = once([DATASETS.get(row[self.by], row[self.by]) for row in found])
        body = [
            (name, who(row), *(spread([row], column) for column in self.columns.values()))
            for name, row in zip(names, found, strict=True)
        ]
        return table(("what", "who", *self.columns), body, ((self.csv, row) for row in found))


def who(row: Row) -> str:
    return f"{row['task']}: {row['competitor']}" if "pairs_per_second" in row else row["competitor"]


TIMES_TORCHVISION = {"times torchvision": "ratio_to_torchvision"}
LOSS = {"ms": "wall_ms", "times as fast": "speedup", "extra MB": "peak_extra_mb"}
TIMES_REFERENCE = {"times the reference": "ratio_to_reference", "times synthetic data": "ratio_to_synthetic"}
CPU_SECONDS = {"CPU-s per 1,000": "cpu_seconds_per_1000_pairs"}
FIELDS = {
    "loader-all": Field("loader", "dataset", {"per second": "pairs_per_second"} | TIMES_TORCHVISION | CPU_SECONDS),
    "views": Field("kernels_views", "task", {"views/s": "views_per_second"} | TIMES_TORCHVISION),
    "varcon": Field("kernels_varcon", "shape", LOSS),
    "contrastive": Field("kernels_contrastive", "shape", LOSS),
    "step": Field("step", "dataset", {"views/s": "views_per_second"} | TIMES_REFERENCE),
}


# ------------------------------------------------------------------------------------------------- one file, one table


def backends() -> str:
    """What every backend of ours needs of the CPU: where it decodes, and where both views are made there too."""
    found = {(row["dataset"], row["competitor"], row["task"]): row for row in FIELDS["loader-all"].newest()}
    ours = dict.fromkeys((dataset, name) for dataset, name, _ in found if name.startswith("fastvarcon "))
    body = []
    for (dataset, name), images in zip(ours, once([DATASETS[dataset] for dataset, _ in ours]), strict=True):
        decode, views = (found.get((dataset, name, task), {}) for task in ("decode", "two views"))
        size = number(decode.get("mean_bytes") or views["mean_bytes"]) if images else ""
        cells = (spread([decode], "pairs_per_second"), decode.get("cpu_seconds_per_1000_pairs", ""))
        body.append((images, size, name.removeprefix("fastvarcon "), *cells, spread([views], "pairs_per_second")))
    head = ("images", "bytes each", "backend", "decode: images/s", "core-seconds for 1,000", "both views: pairs/s")
    return table(head, body, (("loader", row) for row in found.values()))


def convert() -> str:
    newest = {(row["dataset"], row["settings"]): row for row in every_row("convert")}
    body = [
        (
            f"{DATASETS[dataset]}, `--{'mode keep' if settings == 'keep' else settings}`",
            number(row["fastvarcon_images_per_second"]),
            number(row["ffcv_images_per_second"]),
            spread([row], "ratio"),
            number(1000 * float(row["fastvarcon_mb"]) / int(row["images"])),
            number(1000 * float(row["ffcv_mb"]) / int(row["images"])),
        )
        for (dataset, settings), row in newest.items()
    ]
    head = ("what", "images/s", "ffcv's writer", "times as fast", "MB per 1,000", "ffcv's")
    return table(head, body, (("convert", row) for row in newest.values()))


def evaluation() -> str:
    found = [rows("evaluation", task=task, dim="2048")[-1] for task in ("linear", "knn")]
    shapes = [f"{int(row['rows']):,} x {int(row['dim']):,}, {row['classes']} classes" for row in found]
    body = [
        (row["task"], shape, number(row["seconds"]), number(row["cpu_seconds"]))
        for row, shape in zip(found, shapes, strict=True)
    ]
    return table(("what", "training features", "seconds", "CPU-seconds"), body, (("evaluation", row) for row in found))


def memory() -> str:
    row = every_row("loader_memory")[-1]
    body = [(row["batch"], row["epochs"], row["first_epoch_mb"], row["largest_mb"])]
    head = ("images of 400 px a step", "epochs", "MB after the first", "MB at most")
    return table(head, body, [("loader_memory", row)])


FUZZED = {
    "fuzz_reader": "`.beton` files and tar folders",
    "fuzz_runs": "run folders, checkpoints, headers of weights",
}


def fuzz() -> str:
    found = every_row("fuzz")
    by_fuzzer: dict[str, list[Row]] = {}
    for row in found:
        by_fuzzer.setdefault(re.search(r"benchmarks/(\w+)\.py", row["command"])[1], []).append(row)
    columns = ("n", "opened", "refused", "unexpected", "crashes", "hangs")
    body = [
        (FUZZED.get(name, name), *(f"{sum(int(row[column]) for row in group):,}" for column in columns))
        for name, group in by_fuzzer.items()
    ]
    head = ("damaged", "files", "opened", "refused", "errors", "crashes", "hangs")
    return table(head, body, (("fuzz", row) for row in found))


def newcomer() -> str:
    """The steps of docs/quick-start.md, as newcomer.py timed them last."""
    newest = {row["command"]: row for row in every_row("newcomer")}
    body = [
        (name, f"`{command.replace(' --data.train train.beton --data.val val.beton', ' ...')}`", number(row["seconds"]))
        for name, (command, row) in zip(once([row["step"] for row in newest.values()]), newest.items(), strict=True)
    ]
    body.append(("together", "", number(sum(float(row["seconds"]) for row in newest.values()))))
    return table(("step", "command", "seconds"), body, (("newcomer", row) for row in newest.values()))


TABLES = {
    "loader": loader,
    "speed": speed,
    **{name: field.text for name, field in FIELDS.items()},
    "backends": backends,
    "convert": convert,
    "evaluation": evaluation,
    "memory": memory,
    "fuzz": fuzz,
    "newcomer": newcomer,
}
