"""Several .beton files -> one, record by record, each checked against its content hash on the way."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from fastvarcon.data.beton import Beton
from fastvarcon.data.beton_set import check_classes, check_names, check_shards
from fastvarcon.data.records import content_hash
from fastvarcon.data_prep.beton_writer import BetonWriter
from fastvarcon.data_prep.record import Record
from fastvarcon.data_prep.skipped import check_skipped_path, read_skipped, write_skipped
from fastvarcon.errors import UserError, reason

STEP = 256  # records between two looks of the progress display
OF_ONE_FILE = ("num_samples", "classes", "hashes", "shard")
"""What a file says of itself, and not of how its images were converted."""


@dataclass(frozen=True)
class Merged:
    images: int
    skipped: int
    """Files that the conversions of the parts had skipped."""


def open_parts(paths: Sequence[Path]) -> list[Beton]:
    """The files that are to be one, in the given order, shards of one conversion in theirs.

    Raises:
        UserError: files that cannot be read or do not belong together, a missing shard.
    """
    files = sorted(map(Beton, paths), key=lambda file: file.extra.get("shard", [1, 1])[0])
    check_classes(files)
    check_names(files)
    check_shards(files)
    return files


def merge(parts: Sequence[Beton], out: Path, on_images: Callable[[int], None] = lambda images: None) -> Merged:
    """Join `parts` into `out`; a merge that fails leaves nothing. `on_images` is told how many more are done.

    All shards of a `--shard i/n` conversion give the file of the whole conversion, to the byte if nothing was skipped.

    Raises:
        UserError: a damaged record, shards of different settings, a full disk.
    """
    if out.resolve() in [file.path.resolve() for file in parts]:
        raise UserError(f"{out} is one of the files to merge: name the file to write first, then its parts")
    check_skipped_path(out)
    settings = _common_settings(parts)
    try:
        with BetonWriter(out, sum(map(len, parts)), parts[0].classes, settings) as writer:
            for file in parts:
                _copy(file, writer, on_images)
    except BrokenPipeError:  # of the progress display, not of the file
        raise
    except OSError as error:
        raise UserError(f"{out} cannot be written ({reason(error)}): no part of it was left") from None
    skipped = [message for file in parts for message in read_skipped(file.path)]
    write_skipped(out, skipped)
    return Merged(len(writer), len(skipped))


def _common_settings(files: Sequence[Beton]) -> dict:
    """How the images were converted. Shards of one conversion must agree; of other files, what they have in common."""
    settings = [{name: value for name, value in file.extra.items() if name not in OF_ONE_FILE} for file in files]
    for file, own in zip(files, settings, strict=True):
        others = [name for name in own.keys() | settings[0] if own.get(name) != settings[0].get(name)]
        if "shard" in file.extra and others:
            raise UserError(
                f"{file.path} was converted with another {', '.join(sorted(others))} than {files[0].path}: "
                "convert one of them again"
            )
    return {name: value for name, value in settings[0].items() if all(own.get(name) == value for own in settings)}


def _copy(file: Beton, writer: BetonWriter, on_images: Callable[[int], None]) -> None:
    for first in range(0, len(file), STEP):
        last = min(first + STEP, len(file))
        file.will_need(first, last)
        for index in range(first, last):
            payload = bytes(file.record(index))
            found = content_hash(payload)
            if file.hashes is not None and found != file.hashes[index]:
                raise UserError(f"{file.name(index)} is damaged: convert {file.path} again")
            record = Record(payload, int(file.modes[index]), int(file.heights[index]), int(file.widths[index]))
            writer.add(record, int(file.labels[index]), found)
        on_images(last - first)
