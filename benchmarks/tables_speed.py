"""Tables of speed: ours and the competitors, from the rows of `fastvarcon bench` and of the scripts in benchmarks/."""

from __future__ import annotations

from dataclasses import dataclass

from tables_cells import Row, every_row, median, number, once, rows, spread, table

# ------------------------------------------------------------------------------------------------- data loading

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
    "decoded images; the GPU makes the views": {"task": "decode", "competitor": "fastvarcon cpu"},
    "both views, made on the CPU": {"task": "two views", "competitor": "fastvarcon cpu"},
    "both views, `resident`": {"task": "two views", "competitor": "fastvarcon resident"},
}


def loader() -> str:
    """Our loader compared with torchvision's two-crop loader; all measurements of each count."""
    measured = [
        (dataset, what, found)
        for dataset in ("nette-keep", "x8-keep", "x8-256", "cifar-raw")
        for what, ours in FED.items()
        if (dataset, what) != ("cifar-raw", "decoded images; the GPU makes the views")  # nothing to decode
        and (found := [row for row in every_row("loader") if row.items() >= {**ours, "dataset": dataset}.items()])
    ]
    body = [
        (name, what, number(median(found, "pairs_per_second")), spread(found, "ratio_to_torchvision"))
        for name, (_, what, found) in zip(
            once([DATASETS[dataset] for dataset, _, _ in measured]), measured, strict=True
        )
    ]
    head = ("images", "output", "per second", "speed-up over torchvision")
    return table(head, body, (("loader", row) for _, _, found in measured for row in found))


# ------------------------------------------------------------------------------------------------- the rest, ours


@dataclass(frozen=True)
class Line:
    """A row of the table: what ours achieves in its newest row, and its speed-up over one competitor."""

    what: str
    csv: str
    ours: Row  # the column values that select the row
    figure: str  # the column that is shown
    unit: str
    against: str = ""
    ratio: str = ""  # a column, with its range in RATIO_min and RATIO_max; or
    other: str = ""  # a competitor in the same command, whose time is divided by ours

    def row(self) -> Row:
        return rows(self.csv, **self.ours)[-1]

    def cells(self) -> tuple[str, str, str, str]:
        row = self.row()
        ratio = spread([row], self.ratio) if self.ratio else ""
        if self.other:
            theirs = rows(self.csv, command=row["command"], shape=row["shape"], competitor=self.other)[-1]
            ratio = number(float(theirs[self.figure]) / float(row[self.figure]))
        elif "memory_ratio" in row:
            ratio += f", with {number(row['memory_ratio'])} of the memory"
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
        "VarCon, 8,192 rows, 1,000 classes",
        "kernels_varcon",
        VARCON,
        "wall_ms",
        "ms",
        "the paper's equations in torch",
        "speedup",
    ),
    Line("", "kernels_varcon", VARCON, "wall_ms", "ms", "the same, compiled", other="reference, torch.compile"),
    Line("SupCon, 4,096 rows", "kernels_contrastive", SUPCON, "wall_ms", "ms", "the N x N formula", "speedup"),
    Line("", "kernels_contrastive", SUPCON, "wall_ms", "ms", "the same, compiled", other="reference, torch.compile"),
    Line(
        "training step, narrow ResNet-18",
        "step",
        STEP,
        "views_per_second",
        "views/s",
        "the reference code",
        "ratio_to_reference",
    ),
    Line("convert ImageNet to 256 px", "convert", CONVERT, *WRITER),
    Line("convert ImageNet, keeping its JPEG bytes", "convert", KEEP, *WRITER),
)


def speed() -> str:
    return table(("task", "ours", "compared with", "speed-up"), (line.cells() for line in SPEED), (
        (line.csv, line.row()) for line in SPEED))  # fmt: skip


# ------------------------------------------------------------------------------------------------- all competitors


@dataclass(frozen=True)
class Field:
    """All competitors of one benchmark. For each case: the run with the most competitors, the newest of equals."""

    csv: str
    by: str  # the column that names the case
    columns: dict[str, str]  # heading -> column

    def newest(self) -> list[Row]:
        runs: dict[tuple[str, str], list[list[Row]]] = {}
        for row in every_row(self.csv):
            alike = runs.setdefault((row[self.by], row["machine"]), [])
            if not alike or name_of(row) in map(name_of, alike[-1]) or row["command"] != alike[-1][0]["command"]:
                alike.append([])
            alike[-1].append(row)
        return [row for alike in runs.values() for row in max(reversed(alike), key=len)]

    def text(self) -> str:
        found = self.newest()
        names = once([DATASETS.get(row[self.by], row[self.by]) for row in found])
        body = [
            (name, name_of(row), *(spread([row], column) for column in self.columns.values()))
            for name, row in zip(names, found, strict=True)
        ]
        return table(("case", "implementation", *self.columns), body, ((self.csv, row) for row in found))


def name_of(row: Row) -> str:
    return f"{row['task']}: {row['competitor']}" if "pairs_per_second" in row else row["competitor"]


TIMES_TORCHVISION = {"speed-up over torchvision": "ratio_to_torchvision"}
LOSS = {"ms": "wall_ms", "speed-up": "speedup", "extra MB": "peak_extra_mb"}
TIMES_REFERENCE = {
    "speed-up over the reference": "ratio_to_reference",
    "relative to synthetic data": "ratio_to_synthetic",
}
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
    """CPU time of each of our backends: for decoding alone, and for decoding and both views."""
    found = {(row["dataset"], row["competitor"], row["task"]): row for row in FIELDS["loader-all"].newest()}
    ours = dict.fromkeys((dataset, name) for dataset, name, _ in found if name.startswith("fastvarcon "))
    body = []
    for (dataset, name), images in zip(ours, once([DATASETS[dataset] for dataset, _ in ours]), strict=True):
        decode, views = (found.get((dataset, name, task), {}) for task in ("decode", "two views"))
        size = number(decode.get("mean_bytes") or views["mean_bytes"]) if images else ""
        cells = (spread([decode], "pairs_per_second"), decode.get("cpu_seconds_per_1000_pairs", ""))
        body.append((images, size, name.removeprefix("fastvarcon "), *cells, spread([views], "pairs_per_second")))
    head = ("images", "bytes per image", "backend", "decode: images/s", "core-seconds per 1,000", "both views: pairs/s")
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
    head = ("images and mode", "images/s", "ffcv's writer", "speed-up", "MB per 1,000", "ffcv's MB per 1,000")
    return table(head, body, (("convert", row) for row in newest.values()))


def evaluation() -> str:
    found = [rows("evaluation", task=task, dim="2048")[-1] for task in ("linear", "knn")]
    shapes = [f"{int(row['rows']):,} x {int(row['dim']):,}, {row['classes']} classes" for row in found]
    body = [
        (row["task"], shape, number(row["seconds"]), number(row["cpu_seconds"]))
        for row, shape in zip(found, shapes, strict=True)
    ]
    return table(
        ("evaluation", "training features", "seconds", "CPU-seconds"), body, (("evaluation", row) for row in found)
    )


def memory() -> str:
    row = every_row("loader_memory")[-1]
    body = [(row["batch"], row["epochs"], row["first_epoch_mb"], row["largest_mb"])]
    head = ("images of 400 px per step", "epochs", "MB after the first epoch", "peak MB")
    return table(head, body, [("loader_memory", row)])


FUZZED = {
    "fuzz_reader.py": "converted files, read",
    "fuzz_sources.py": "data sets of every kind, converted",
    "fuzz_runs.py": "run folders, checkpoints, headers of weights",
}


def fuzz() -> str:
    """A row for each script, of all its runs."""
    found = every_row("fuzz")
    scripts = dict.fromkeys(row["command"].split()[1].removeprefix("benchmarks/") for row in found)
    body = []
    for script in scripts:
        rows = [row for row in found if script in row["command"]]
        columns = ("n", "opened", "refused", "unexpected", "crashes", "hangs")
        counts = (sum(int(row[name]) for row in rows) for name in columns)
        body.append((FUZZED.get(script, script), *(f"{count:,}" for count in counts)))
    head = ("what", "damaged", "opened", "refused", "errors", "crashes", "hangs")
    return table(head, body, (("fuzz", row) for row in found))


def pillow() -> str:
    """What became of Pillow's own test images, by mode, in the newest run."""
    newest = {row["mode"]: row for row in every_row("pillow_images")}
    columns = ("files", "same", "otherwise", "refused", "refused_by_both")
    body = [(f"`--mode {mode}`", *(f"{int(row[name]):,}" for name in columns)) for mode, row in newest.items()]
    head = ("mode", "files", "stored as Pillow shows it", "otherwise", "refused here alone", "shown by neither")
    return table(head, body, (("pillow_images", row) for row in newest.values()))


def newcomer() -> str:
    """The steps of docs/quick-start.md, with the times of the newest run of newcomer.py."""
    newest = {row["command"]: row for row in every_row("newcomer")}
    body = [
        (name, f"`{command.replace(' --data.train train.beton --data.val val.beton', ' ...')}`", number(row["seconds"]))
        for name, (command, row) in zip(once([row["step"] for row in newest.values()]), newest.items(), strict=True)
    ]
    body.append(("total", "", number(sum(float(row["seconds"]) for row in newest.values()))))
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
    "pillow": pillow,
    "newcomer": newcomer,
}
