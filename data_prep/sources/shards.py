"""Data sets that come as several files: which files a path, a pattern and a split mean."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

from fastvarcon.data.class_names import splits_among
from fastvarcon.data.folder_walk import FolderWalk, refuse_dead_link
from fastvarcon.errors import UserError

NUMBERING = re.compile(r"(^|[-_.])\d+(-of-\d+)?(-[0-9a-f]{16})?$")
"""What follows the split in train-00000-of-00010, shard_17, train-00000-of-00001-a09b74b3ef9c3b56."""
RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")
SPLITS_SHOWN = 10

T = TypeVar("T")


def is_pattern(path: Path) -> bool:
    return not path.exists() and any(character in str(path) for character in "{*?[")


def find_shards(path: Path, split: str | None, suffixes: tuple[str, ...]) -> tuple[list[Path], list[str]]:
    """Files in order, and short names for messages.

    `path` is one file, a folder whose files at any depth are taken, or a pattern.

    Raises:
        UserError: nothing there, or a folder of several splits, or a pattern of train and test, and none is chosen.
    """
    if path.is_dir():
        root, files = path, files_below(path, suffixes)
        if not files:
            raise UserError(f"{path} holds no files named *{' or *'.join(suffixes)}: give the folder they are in")
    else:
        files = [path] if path.exists() else expand_pattern(path)
        root = Path(os.path.commonpath([file.parent for file in files]))
    groups: dict[str, list[Path]] = {}
    for file in files:
        groups.setdefault(_split_of(file.relative_to(root)), []).append(file)
    if path.is_dir() or split is not None or splits_among(groups):  # a pattern may well join anything else
        files = choose_split(groups, split, path)
    return files, [file.relative_to(root).as_posix() for file in files]


def choose_split(groups: dict[str, T], split: str | None, where: Path) -> T:
    """The group that is named `split`, or has it as a word of its name: `train` finds `data/train`, `my-train`.

    Raises:
        UserError: lists the names unless exactly one fits.
    """
    names = ", ".join([*sorted(groups)[:SPLITS_SHOWN], *["..."] * (len(groups) > SPLITS_SHOWN)])
    if split is None:
        if len(groups) > 1:
            raise UserError(f"{where} holds several splits, {names}: choose one with --split")
        return next(iter(groups.values()))
    fitting = [name for name in groups if name == split]
    fitting = fitting or [name for name in groups if split in re.split(r"[-_./]", name)]
    if len(fitting) != 1:
        number = "several splits" if fitting else "no split"
        raise UserError(f"{where} has {number} of the name {split}: choose from {names} with --split")
    return groups[fitting[0]]


def _split_of(file: Path) -> str:
    """data/train-00000-of-00010.parquet -> data/train; default/train/0000.parquet -> default/train."""
    return (file.parent / NUMBERING.sub("", file.stem)).as_posix()


def files_below(root: Path, suffixes: tuple[str, ...]) -> list[Path]:
    files = []
    for entry in FolderWalk().files(root):
        if entry.name.endswith(suffixes):
            refuse_dead_link(entry)
            files.append(Path(entry.path))
    return sorted(files)


def expand_pattern(pattern: Path) -> list[Path]:
    """The files that a pattern with {0000..0012}, * and ? means."""
    if not is_pattern(pattern):
        raise UserError(
            f"{pattern} does not exist: give a folder, a file or a pattern such as train-{{0000..0012}}.tar"
        )
    files: list[Path] = []
    for name in _expand_ranges(str(pattern)):
        found = [name] if os.path.exists(name) else sorted(glob.glob(name))
        if not found:
            raise UserError(f"{name} does not exist, which {pattern} asks for: correct the pattern or fetch the file")
        files += map(Path, found)
    if not files:
        raise UserError(f"{pattern} stands for no file: a range counts upwards, {{0000..0012}}")
    return files


def _expand_ranges(pattern: str) -> Iterator[str]:
    match = RANGE.search(pattern)
    if match is None:
        yield pattern
        return
    first, last = match.groups()
    for number in range(int(first), int(last) + 1):
        for rest in _expand_ranges(pattern[match.end() :]):
            yield f"{pattern[: match.start()]}{number:0{len(first)}d}{rest}"
