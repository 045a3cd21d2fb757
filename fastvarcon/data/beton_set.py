"""Several .beton files as one dataset, in the order of their names."""

from __future__ import annotations

import contextlib
import hashlib
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fastvarcon.data.beton import Beton
from fastvarcon.data.class_names import listed
from fastvarcon.errors import UserError

SHARD_NAME = re.compile(r"(.+)-(\d+)-of-(\d+)")
"""What `convert --shard i/n` calls a file: NAME-0000i-of-0000n.beton."""


class BetonSet:
    """The shards of one dataset behind the interface of `records.Records`; sample ids run through all of them.

    Raises:
        UserError: a file that cannot be read, files that are not shards of one set, other classes than those of the
            first, a missing or repeated shard.

    Args:
        all_of_folder: they are what a folder holds, which may be a training and a held-out file; otherwise a pattern
            has named them.
    """

    def __init__(self, paths: Sequence[Path], *, all_of_folder: bool = False):
        with contextlib.ExitStack() as opened:
            self._files: list[Beton] = []
            for path in paths:
                self._files.append(Beton(path))
                opened.callback(self._files[-1].close)
            check_classes(self._files)
            check_names(self._files, all_of_folder)
            check_shards(self._files)
            opened.pop_all()
        self.classes = self._files[0].classes
        self.extra = {key: value for key, value in self._files[0].extra.items() if key not in ("hashes", "shard")}
        self._starts = np.cumsum([0, *map(len, self._files)])
        self.labels, self.heights, self.widths, self.modes, self.sizes = (
            np.concatenate([getattr(file, table) for file in self._files])
            for table in ("labels", "heights", "widths", "modes", "sizes")
        )
        hashes = [file.hashes for file in self._files if file.hashes is not None]
        self.hashes: np.ndarray | None = np.concatenate(hashes) if len(hashes) == len(self._files) else None

    def __len__(self) -> int:
        return int(self._starts[-1])

    @property
    def fingerprint(self) -> str:
        return hashlib.sha256("\n".join(file.fingerprint for file in self._files).encode()).hexdigest()

    def record(self, index: int) -> memoryview:
        file, row = self._locate(index)
        return file.record(row)

    def name(self, index: int) -> str:
        file, row = self._locate(index)
        return file.name(row)

    def will_need(self, first: int, last: int) -> None:
        for file, start in zip(self._files, self._starts[:-1], strict=True):
            file.will_need(max(0, first - start), max(0, min(last - start, len(file))))

    def close(self) -> None:
        for file in self._files:
            file.close()

    def _locate(self, index: int) -> tuple[Beton, int]:
        slot = int(np.searchsorted(self._starts, index, side="right")) - 1
        return self._files[slot], int(index - self._starts[slot])


def check_names(files: Sequence[Beton], all_of_folder: bool = False) -> None:
    """Raise UserError for shards of several sets by their names, and for files of a folder that are not shards at all.

    Which files they are is told by NAME-i-of-n.beton, or by the shard number that the converter writes into a file.
    """
    matches = [SHARD_NAME.fullmatch(file.path.stem) for file in files]
    sets = {(match[1], int(match[3])) for match in matches if match}
    mixed = len(sets) > 1 or (bool(sets) and not all(matches))
    loose = all_of_folder and not (matches and all(matches)) and not all(file.extra.get("shard") for file in files)
    if len(files) > 1 and (mixed or loose):
        names = [file.path.name for file in files]
        raise UserError(
            f"{files[0].path.parent} holds {listed(names)}, which are not shards of one set: name one file, or a "
            'pattern of the shards, as "train-*.beton"'
        )


def check_classes(files: Sequence[Beton]) -> None:
    """Raise UserError if a file has other classes than the first."""
    for file in files[1:]:
        if file.classes != files[0].classes:
            raise UserError(
                f"{file.path} has other classes than {files[0].path}: they are not shards of one dataset, "
                "convert them with --shard i/n or name one file"
            )


def check_shards(files: Sequence[Beton]) -> None:
    """Raise UserError if the files are parts i of n, by number or name, of which one is missing or there twice."""
    shards = [shard for shard in map(_shard_of, files) if shard]
    if not shards:
        return
    counts = {shard[1] for shard in shards}
    if len(counts) > 1 or len(shards) < len(files):
        raise UserError(f"{files[0].path} and the others are shards of different conversions: name those of one")
    (count,) = counts
    numbers = [shard[0] for shard in shards]
    for number in range(1, count + 1):
        if numbers.count(number) != 1:
            state = "missing" if number not in numbers else "there more than once"
            raise UserError(
                f"shard {number}/{count} is {state} beside {files[0].path}: convert it with --shard {number}/{count}"
            )


def _shard_of(file: Beton) -> list[int] | None:
    """[i, n] as the converter wrote it into the file, else as the name says."""
    match = SHARD_NAME.fullmatch(file.path.stem)
    return file.extra.get("shard") or ([int(match[2]), int(match[3])] if match else None)
