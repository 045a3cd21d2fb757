"""`fastvarcon convert`."""

from __future__ import annotations

import dataclasses
import re
import time
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import FlagCreatePairsOff, Positional, arg

from fastvarcon.data.class_names import one_spelling
from fastvarcon.errors import UserError, reason
from fastvarcon.machine import available_cores

MAX_LIST = 100_000_000  # characters of --classes, which may be a pipe
UNITS = {"KB": 10**3, "MB": 10**6, "GB": 10**9}


def convert(
    source: Annotated[
        Positional[Path],
        arg(metavar="SOURCE", help="Folder with one sub-folder of images per class, or another dataset: see --source."),
    ],
    out: Annotated[
        Positional[Path],
        arg(
            metavar="OUT", help="The .beton file or folder of tar shards to write; it appears only when it is complete."
        ),
    ],
    kind: Annotated[
        Literal["auto", "folder", "cifar", "idx", "parquet", "webdataset", "class-tars"],
        arg(name="source", help="Kind of SOURCE; auto detects it. class-tars: one tar file per class."),
    ] = "auto",
    split: Annotated[
        str | None, arg(help="Which split to convert if SOURCE holds several, for instance train.")
    ] = None,
    image_column: Annotated[str | None, arg(help="parquet: the column with the images.")] = None,
    label_column: Annotated[str | None, arg(help="parquet, CIFAR-100: the column with the labels.")] = None,
    preset: Annotated[
        Literal["256", "400", "500", "original"] | None,
        arg(
            help="Instead of --mode, --max-resolution and --quality: 256, 400 or 500 pixels at quality 90, or original "
            "(--mode keep). ImageNet-1k takes 22, 45, 69 or 141 GB, estimated from the mean size of 1,000 converted "
            "files (17, 35, 54, 110 KB)."
        ),
    ] = None,
    max_resolution: Annotated[
        int | None, arg(help="Shrink images whose longer side has more pixels than this.")
    ] = None,
    quality: Annotated[int | None, arg(help="JPEG quality of re-encoded images, 1-100; default 90.")] = None,
    mode: Annotated[
        Literal["jpg", "raw", "keep"] | None,
        arg(
            help="jpg: re-encode, the default. raw: store pixels. keep: copy JPEG bytes that need no change, "
            "re-encode the others."
        ),
    ] = None,
    check: Annotated[
        Literal["frame", "decode"] | None,
        arg(
            help="keep: how to check that a JPEG is complete. frame (default): by its header and its last bytes. "
            "decode: by decoding all of it, which takes three times as long."
        ),
    ] = None,
    background: Annotated[
        str, arg(metavar="COLOUR", help="What shows through transparent pixels: a colour name or #rrggbb.")
    ] = "white",
    depth: Annotated[
        int | None,
        arg(
            metavar="BITS",
            help="Bits in use of images that store 16 a sample and do not say it, 8-16; many cameras use 10, 12 or 14.",
        ),
    ] = None,
    format: Annotated[
        Literal["beton", "tar"], arg(help="beton: one file. tar: WebDataset shards with DALI's index.")
    ] = "beton",
    shard_size: Annotated[
        str | None, arg(metavar="SIZE", help="tar: largest size of a shard, for instance 500MB or 1GB; default 1GB.")
    ] = None,
    shard: Annotated[
        str | None,
        arg(metavar="I/N", help="Convert only part I of N, to OUT-0000I-of-0000N; `fastvarcon merge` joins the parts."),
    ] = None,
    workers: Annotated[int, arg(help="Processes; 0 = one per core.")] = 0,
    on_error: Annotated[
        Literal["stop", "skip"],
        arg(help="What to do about a broken image: stop, or skip it and list it in OUT.skipped.txt."),
    ] = "stop",
    per_class: Annotated[
        int | None, arg(help="Convert only this many images per class, the first ones, for a quick trial.")
    ] = None,
    classes: Annotated[
        Path | None, arg(metavar="FILE", help="Convert only the classes that this text file lists, one per line.")
    ] = None,
    restart: Annotated[
        bool, FlagCreatePairsOff, arg(help="Discard what an interrupted conversion left, and start again.")
    ] = False,
) -> None:
    """Convert labelled images, once, into the file that training reads. If interrupted, the same command resumes it."""
    from fastvarcon.data.class_names import without_images
    from fastvarcon.data.image_kinds import listed
    from fastvarcon.data_prep.convert import TAR_SHARD_SIZE, part_of
    from fastvarcon.data_prep.convert import convert as run
    from fastvarcon.data_prep.encode import PRESETS, EncodeSettings
    from fastvarcon.data_prep.sources import open_source
    from fastvarcon.progress import Counter, format_seconds
    from fastvarcon.terminal import say

    if preset is None:
        default = EncodeSettings()
        settings = EncodeSettings(mode or default.mode, max_resolution, default.quality if quality is None else quality)
    elif mode is None and max_resolution is None and quality is None:
        settings = PRESETS[preset]
    else:
        raise UserError(f"--preset {preset} sets mode, resolution and quality: leave out --preset or the others")
    if check is not None:
        if settings.mode != "keep":
            raise UserError("--check belongs to --mode keep: what is re-encoded has been decoded, leave it out")
        settings = dataclasses.replace(settings, check=check)
    settings = dataclasses.replace(settings, background=background, depth=depth)
    settings.validate()
    if workers < 0:
        raise UserError(f"--workers must be 0 (one per core) or more, got {workers}")
    if per_class is not None and per_class < 1:
        raise UserError(f"--per-class must be at least 1, got {per_class}")
    if shard_size is not None and format != "tar":
        raise UserError("--shard-size belongs to --format tar: leave it out")
    part = None if shard is None else parse_shard(shard)
    tar_shard_size = TAR_SHARD_SIZE if shard_size is None else parse_size(shard_size)
    images = open_source(source, kind, split, image_column=image_column, label_column=label_column)
    if classes is not None:
        images = images.of_classes(read_classes(classes))
    if per_class is not None:
        images = images.first_per_class(per_class)
    start = time.perf_counter()
    with Counter(f"converting {images.name}", len(part_of(len(images), part))) as counter:
        done = run(
            images,
            out,
            settings,
            workers=workers or available_cores(),
            on_error=on_error,
            shard=part,
            format=format,
            tar_shard_size=tar_shard_size,
            restart=restart,
            progress=counter,
        )
    say(
        f"{done.path}: {done.written:,} images, {len(images.classes):,} classes, {_bytes_in(done.path) / 1e6:,.1f} MB, "
        f"in {format_seconds(time.perf_counter() - start)}"
    )
    if empty := without_images(images.labels, images.classes, "images"):
        say(empty)
    if settings.mode == "keep" and settings.check == "frame":
        say(f"JPEGs were kept without decoding them: `fastvarcon verify {done.path}` proves each of them sound")
    say(*done.remarks)
    if images.left_out:
        say(f"left out: {listed(images.left_out)}")
    if done.skipped:
        say(f"{len(done.skipped):,} broken files were skipped; they are listed in {done.skipped_list}:")
        say(*(f"  {message}" for message in done.skipped[:10]), *["  ..."] * (len(done.skipped) > 10))


def read_classes(path: Path) -> list[str]:
    """The names in a text file, one per line. Raises UserError if there are none."""
    try:
        with open(path, encoding="utf-8-sig") as file:  # Windows begins a text with a mark
            names = file.read(MAX_LIST).split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--classes {path} cannot be read ({reason(error)}): give a text with a class a line") from None
    names = [one_spelling(name.strip()) for name in names if name.strip()]
    if not names:
        raise UserError(f"--classes {path} is empty: give a text with a class a line")
    return names


def parse_shard(text: str) -> tuple[int, int]:
    """ "3/16" -> (3, 16)"""
    match = re.fullmatch(r"(\d{1,5})/(\d{1,5})", text)
    if match is None or not 1 <= int(match[1]) <= int(match[2]):
        raise UserError(f"--shard takes the number of the part and of all parts, as 1/16, got {text}")
    return int(match[1]), int(match[2])


def parse_size(text: str) -> int:
    """ "500MB" -> 500_000_000"""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)(KB|MB|GB)", text.upper())
    size = round(float(match[1]) * UNITS[match[2]]) if match else 0
    if size < 1:
        raise UserError(f"--shard-size takes a size as 500MB or 1GB, got {text}")
    return size


def _bytes_in(path: Path) -> int:
    files = path.iterdir() if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files)
