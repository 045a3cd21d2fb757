"""Conversion against the writer of the ffcv package: images per second, same images, same settings, same processes.

    python benchmarks/convert.py FOLDER [--rounds 5]

Two comparisons, in turns, each conversion in a process of its own: `--max-resolution 256` against
RGBImageField("jpg", max_resolution=256, jpeg_quality=90), and `--mode keep` against RGBImageField("jpg"), which is how
ffcv stores images as they are. Timed from the list of files to the finished file, without imports. Rows go to
benchmarks/results/convert.csv.
"""

from __future__ import annotations

import argparse
import csv
import datetime
import importlib
import multiprocessing
import os
import shlex
import statistics
import sys
import tempfile
import time
from pathlib import Path

from fastvarcon.machine import available_cores, cpu_name

RESULTS = Path(__file__).parent / "results" / "convert.csv"


def ours(folder: str, out: str, workers: int, mode: str, max_resolution: int | None) -> int:
    from fastvarcon.data_prep.convert import convert
    from fastvarcon.data_prep.encode import EncodeSettings
    from fastvarcon.data_prep.sources import open_source

    settings = EncodeSettings(mode, max_resolution, 90)
    return convert(open_source(Path(folder)), Path(out), settings, workers=workers, on_error="stop").written


def ffcv(folder: str, out: str, workers: int, mode: str, max_resolution: int | None) -> int:
    from ffcv.fields import IntField, RGBImageField
    from ffcv.writer import DatasetWriter
    from torchvision.datasets import ImageFolder

    images = ImageFolder(folder)
    field = RGBImageField(write_mode="jpg", max_resolution=max_resolution, jpeg_quality=90)
    writer = DatasetWriter(out, {"image": field, "label": IntField()}, num_workers=workers)
    writer.from_indexed_dataset(images)
    return len(images)


def timed(function, arguments: tuple, answer) -> None:
    for module in ("fastvarcon.data_prep.convert",) if function is ours else ("ffcv.writer", "torchvision.datasets"):
        importlib.import_module(module)
    if function is ffcv:
        multiprocessing.set_start_method("fork", force=True)  # its own way; a spawned process would hand on ours
    start = time.perf_counter()
    images = function(*arguments)
    answer.put((images, time.perf_counter() - start))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    if not args.folder.is_dir():
        sys.exit(f"error: {args.folder} is not a folder: give one with a sub-folder of images per class")
    from fastvarcon.bench.rows import versions  # here: worker processes import this file, and should not import torch

    context, workers = multiprocessing.get_context("spawn"), available_cores()
    settings = {"max-resolution 256": ("jpg", 256), "keep": ("keep", None)}
    rates: dict[tuple[str, str], list[float]] = {}
    sizes: dict[tuple[str, str], int] = {}
    with tempfile.TemporaryDirectory() as temporary:
        for number in range(args.rounds + 1):  # the first one fills the page cache
            for name, (mode, resolution) in settings.items():
                for function in (ours, ffcv):
                    out, answer = str(Path(temporary) / f"{function.__name__}.beton"), context.Queue()
                    arguments = (str(args.folder), out, workers, mode, resolution)
                    process = context.Process(target=timed, args=(function, arguments, answer))
                    process.start()
                    images, seconds = answer.get(timeout=900)
                    process.join()
                    key = (name, function.__name__)
                    sizes[key] = os.path.getsize(out)
                    if number:
                        rates.setdefault(key, []).append(images / seconds)
                        rate = f"{images / seconds:8.0f} images/s"
                        print(f"round {number}  {name:20s} {function.__name__:5s} {rate}", flush=True)
    new = not RESULTS.exists()
    with open(RESULTS, "a", newline="") as file:
        for name in settings:
            pair = list(zip(rates[name, "ours"], rates[name, "ffcv"], strict=True))
            row = {
                "date": datetime.date.today().isoformat(),
                "dataset": args.folder.resolve().name,
                "images": images,
                "settings": name,
                "rounds": args.rounds,
                "fastvarcon_images_per_second": round(statistics.median(rates[name, "ours"])),
                "ffcv_images_per_second": round(statistics.median(rates[name, "ffcv"])),
                "ratio": round(statistics.median(a / b for a, b in pair), 2),
                "ratio_min": round(min(a / b for a, b in pair), 2),
                "ratio_max": round(max(a / b for a, b in pair), 2),
                "fastvarcon_mb": round(sizes[name, "ours"] / 1e6, 1),
                "ffcv_mb": round(sizes[name, "ffcv"] / 1e6, 1),
                "workers": workers,
                "machine": f"{available_cores()} x {cpu_name()}",
                "versions": versions(),
                "command": shlex.join(["python", *sys.argv]),
            }
            writer = csv.DictWriter(file, row.keys())
            if new:
                writer.writeheader()
                new = False
            writer.writerow(row)
            print({key: row[key] for key in ("dataset", "settings", "ratio", "ratio_min", "ratio_max")})


if __name__ == "__main__":
    main()
