"""Source -> .beton or tar shards: in parallel, in order, resumable, with a policy for broken images.

What is finished stands in a partial output and a journal beside it. Whatever ends a conversion, the same command goes
on behind the last image that is whole there, and the output is the same to the byte as that of one go.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import PIL
import simplejpeg

from fastvarcon.data.class_names import check_names
from fastvarcon.data.image_kinds import refuse_left_out
from fastvarcon.data.records import open_records
from fastvarcon.data_prep.beton_writer import BetonWriter
from fastvarcon.data_prep.encode import EncodeSettings
from fastvarcon.data_prep.journal import FORM, Item, Journal
from fastvarcon.data_prep.path_lock import lock, unlock
from fastvarcon.data_prep.record import Entry, RecordWriter
from fastvarcon.data_prep.remarks import Remarks
from fastvarcon.data_prep.skipped import check_skipped_path, write_skipped
from fastvarcon.data_prep.sources import Source
from fastvarcon.data_prep.workers import Encoded, WorkerDied, encode_all
from fastvarcon.errors import UserError, reason

TAR_SHARD_SIZE = 1_000_000_000


class Progress(Protocol):
    """What a conversion tells while it goes; see progress.Counter."""

    def say(self, line: str) -> None: ...

    def begin(self, done: int) -> None:
        """So many images need not be converted again."""

    def advance(self, images: int) -> None: ...


class Silence:
    """Tells nothing."""

    def say(self, line: str) -> None:
        return

    def begin(self, done: int) -> None:
        return

    def advance(self, images: int) -> None:
        return


@dataclass(frozen=True)
class Conversion:
    path: Path
    """What was written."""
    written: int
    skipped: list[str]
    """Messages, each naming a file."""
    skipped_list: Path | None
    """Where they are listed."""
    remarks: list[str]
    """What the images that were converted now (not before an interruption) have in common, a line each."""


def shard_path(out: Path, shard: tuple[int, int]) -> Path:
    """train.beton, (3, 16) -> train-00003-of-00016.beton"""
    return out.with_name(f"{out.stem}-{shard[0]:05d}-of-{shard[1]:05d}{out.suffix}")


def part_of(images: int, shard: tuple[int, int] | None) -> range:
    """The samples of shard (i, n), contiguous and nearly as many as in the others; all of them for None.

    Raises:
        UserError: there are none.
    """
    if shard is None:
        return range(images)
    number, count = shard
    part = range((number - 1) * images // count, number * images // count)
    if not part:
        raise UserError(f"--shard {number}/{count} of {images} images is empty: use fewer shards")
    return part


def convert(
    source: Source,
    out: Path,
    settings: EncodeSettings,
    *,
    workers: int,
    on_error: Literal["stop", "skip"],
    shard: tuple[int, int] | None = None,
    format: Literal["beton", "tar"] = "beton",
    tar_shard_size: int = TAR_SHARD_SIZE,
    restart: bool = False,
    progress: Progress | None = None,
) -> Conversion:
    """Write `source` to `out`, going on where an interrupted conversion of the same to the same place ended.

    Args:
        shard: (i, n): only the i-th of n contiguous parts, counted from 1, to `shard_path(out, shard)`.
        tar_shard_size: tar: bytes.
        restart: throw away what an interrupted conversion left.

    Raises:
        UserError: class names that no file can keep, a broken image or more than a handful of files that cannot be read
            (policy stop), no image at all, a dead worker, a full disk. An earlier `out` stays as it was, and what has
            been converted is kept for the next call.
    """
    settings.validate()
    if on_error == "stop":
        refuse_left_out(source.name, source.left_out, "pass --on-error skip")
    classes = check_names(source.classes, source.name)  # a source of somebody else may not have done so
    samples = part_of(len(source), shard)
    extra = dataclasses.asdict(settings)
    if shard is not None:
        out = shard_path(out, shard)
        extra["shard"] = list(shard)
    check_skipped_path(out)
    header = {**FORM, "format": format, "tar_shard_size": tar_shard_size, **extra, **_identity(source, samples)}
    if not restart and (complete := _ended_behind_its_last_step(source, samples, out, header)):
        return complete
    writer: RecordWriter
    if format == "beton":
        writer = BetonWriter(out, len(samples), classes, extra)
    elif settings.mode == "raw":
        raise UserError("--format tar holds JPEG images, not raw pixels: use --mode jpg or keep, or --format beton")
    else:
        from fastvarcon.data_prep.tar_writer import TarWriter

        writer = TarWriter(out, len(samples), classes, extra, tar_shard_size)
    run = _Run(source, samples, writer, Remarks(settings), progress or Silence())
    with run.keeping_what_is_done():
        run.resume(header, restart, on_error)
        with contextlib.closing(encode_all(source, samples[run.done :], settings, workers)) as chunks:
            for results in chunks:
                run.store(results, on_error)
        skipped_list = run.finish(out)
    return Conversion(out, len(writer), run.skipped, skipped_list, run.remarks.lines())


def _identity(source: Source, samples: range) -> dict:
    """What else must agree for a resume: the images in their order, and the programs that encode them."""
    digest = hashlib.blake2b(source.labels[samples.start : samples.stop].tobytes(), digest_size=16)
    for index in samples:
        digest.update(source.key(index).encode(errors="surrogateescape") + b"\0")
    return {
        "source": source.name,
        "classes": source.classes,
        "number of images": len(samples),
        "list of images": digest.hexdigest(),
        "Pillow": PIL.__version__,
        "simplejpeg": simplejpeg.__version__,
    }


def _ended_behind_its_last_step(source: Source, samples: range, out: Path, header: dict) -> Conversion | None:
    """Clear up behind a conversion that was killed when `out` had its name already and the journal was still there."""
    path = out.resolve()
    journal = Journal(path)
    try:
        earlier, items = journal.read()
        if earlier != header or len(items) < len(samples) or path.with_name(path.name + ".partial").exists():
            return None
        records = open_records(path)
    except (UserError, OSError):  # whoever writes will say it
        return None
    entries = [item.result for item in items if isinstance(item.result, Entry)]
    stored = [] if records.hashes is None else list(zip(records.labels.tolist(), records.hashes.tolist(), strict=True))
    records.close()
    if stored != [(entry.label, entry.hash) for entry in entries] or _changed(source, samples, items) is not None:
        return None
    held = lock(path)  # the file of the killed one's lock goes with it
    skipped = [item.result for item in items if isinstance(item.result, str)]
    skipped_list = write_skipped(out, skipped)
    journal.remove()
    unlock(held)
    return Conversion(out, len(entries), skipped, skipped_list, remarks=[])


def _changed(source: Source, samples: range, items: Sequence[Item]) -> int | None:
    """The first of `items` whose file is another than that which it was made of."""
    states = ((place, source.state(samples[place]) == item.state) for place, item in enumerate(items))
    return next((place for place, same in states if not same), None)


class _Run:
    """A conversion under way: the images that are done stand in the partial output and in the journal."""

    def __init__(self, source: Source, samples: range, writer: RecordWriter, remarks: Remarks, progress: Progress):
        self._source, self._samples, self._writer, self._progress = source, samples, writer, progress
        self.remarks = remarks
        self._journal = Journal(writer.path)
        self.done: int | None = None
        """Images written or skipped; None until `resume` has found out."""
        self.skipped: list[str] = []

    def resume(self, header: dict, restart: bool, on_error: str) -> None:
        """Take over what an interrupted conversion left, if `header` says that it was the same."""
        earlier, items = self._journal.read()
        changed = [name for name in header if earlier is not None and earlier.get(name) != header[name]]
        if earlier is not None and (restart or changed):
            reason = "--restart" if restart else f"the interrupted conversion had another {', '.join(changed)}"
            self._progress.say(f"starting anew: {reason}")
            items = []
        changed_file = _changed(self._source, self._samples, items)
        if changed_file is not None:
            name = self._source.key(self._samples[changed_file])
            self._progress.say(f"{name} has changed since it was converted: it and what is behind it are done again")
            items = items[:changed_file]
        entries = [(place, item.result) for place, item in enumerate(items) if isinstance(item.result, Entry)]
        if on_error == "stop" and len(entries) < len(items):
            raise UserError(
                f"the interrupted conversion skipped {len(items) - len(entries)} broken files: go on with "
                "--on-error skip, or begin again with --restart"
            )
        if items:
            self._progress.say(f"checking what an interrupted conversion left, {len(items):,} images")
        whole = self._writer.restore([entry for _, entry in entries])
        if whole < len(entries):
            items = items[: entries[whole][0]]
        self._journal.start(header, items)
        self.done = len(items)
        self.skipped = [item.result for item in items if isinstance(item.result, str)]
        if items:
            self._progress.say(f"resuming: {self.done:,} of {len(self._samples):,} images are already converted")
        self._progress.begin(self.done)

    def store(self, results: list[Encoded], on_error: str) -> None:
        """Write the next images. Raises UserError for a broken one (policy stop)."""
        assert self.done is not None, "resume comes first"
        finished: list[Item] = []
        try:
            for result in results:
                if isinstance(result.result, str) and on_error == "stop":
                    break
                finished.append(self._store(result, self._samples[self.done + len(finished)]))
        finally:  # also when the disk is full
            self._journal.append(finished)
            self.done += len(finished)
        if len(finished) < len(results):
            raise UserError(f"{results[len(finished)].result}: repair it, or pass --on-error skip; {self._kept}")
        self._progress.advance(len(results))

    def _store(self, encoded: Encoded, sample: int) -> Item:
        if isinstance(encoded.result, str):
            self.skipped.append(encoded.result)
            return Item(encoded.result, encoded.state)
        record, content_hash = encoded.result
        self.remarks.note(record)
        label = int(self._source.labels[sample])
        self._writer.add(record, label, content_hash)
        entry = Entry(label, record.mode, record.height, record.width, len(record.payload), content_hash)
        return Item(entry, encoded.state)

    def finish(self, out: Path) -> Path | None:
        """Give the output its name; returns where the skipped files are listed."""
        if len(self._writer) == 0:
            self.done = 0
            raise UserError(
                f"none of the {len(self._samples)} files in {self._source.name} is an image that can be read"
            )
        self._writer.finish()
        skipped_list = write_skipped(out, self.skipped)
        self._journal.remove()
        return skipped_list

    @contextlib.contextmanager
    def keeping_what_is_done(self) -> Iterator[None]:
        """Whatever ends the conversion inside, the next call finds what is done. If that is nothing, it is removed."""
        try:
            yield
        except WorkerDied:
            raise UserError(
                f"a conversion worker died, for want of memory unless it said why: {self._kept}; "
                "fewer --workers need less memory"
            ) from None
        except BrokenPipeError:  # of the progress display, not of the file
            raise
        except OSError as error:
            raise UserError(
                f"{error.filename or self._writer.path} cannot be written ({reason(error)}): {self._kept}"
            ) from None
        except (KeyboardInterrupt, SystemExit):
            self._progress.say(self._kept)
            raise
        finally:
            if self.done == 0:
                self._writer.discard()
                self._journal.remove()
            self._writer.suspend()
            self._journal.close()

    @property
    def _kept(self) -> str:
        return (
            f"{self.done or 0:,} of {len(self._samples):,} images are converted, the same command goes on behind them"
        )
