"""The run folder: who may write to it, and whether it belongs to this configuration.

config.json  data.json  metrics.jsonl  checkpoints/{last,previous,epoch-NNN}/  encoder.safetensors  summary.json
eval/*.json  report.html
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import filelock

from fastvarcon import locks
from fastvarcon.config import Config, read_flat
from fastvarcon.errors import UserError
from fastvarcon.json_file import read_json, read_text, write_json
from fastvarcon.json_shape import COUNT, Each, Maybe, Number, Text, misfit
from fastvarcon.whole_file import may_write

CHECKPOINT_FILE = "checkpoint.safetensors"
OUT = "make it writable or free some space, or give another folder with --out"
LOGGED = Number(-1e40, 1e40, finite=False)  # a float32, or NaN
ROW = {"kind": Text(), "step": COUNT, "epoch": COUNT, "loss": LOGGED}
"""What every row of metrics.jsonl has."""
SUMMARY = {
    "final_loss": LOGGED,
    "epochs": COUNT,
    "seconds": Number(0, 1e12),
    "views_per_second": Number(0),
    "data_wait_fraction": Number(0),
    "world_size": COUNT,
    "global_batch": COUNT,
    "backend": Text(),
    "device_name": Text(),
    "versions": Each(Text()),
    "command": Text(),
}
MAY_DIFFER = frozenset(
    (  # they change how fast or how visible a run is, not what it computes
        "out",
        "data.train",  # may move: checkpoints tell what it holds
        "data.val",
        "data.allow_same",
        "data.workers",
        "data.prefetch",
        "data.prefetch_mb",
        "data.keep",
        "monitor.nscl",
        "train.threads",
        "train.log_every",
        "train.val_every",
        "train.val_bank",
        "train.save_every",
        "train.trackers",
        "train.profile",
        "train.save_minutes",
        "train.save_steps",
        "train.keep",
        "train.micro_batch",
    )
)


class RunFolder:
    def __init__(self, path: Path):
        self.path = path
        self.config = path / "config.json"
        self.data = path / "data.json"
        self.metrics = path / "metrics.jsonl"
        self.encoder = path / "encoder.safetensors"
        self.summary = path / "summary.json"
        self.last = path / "checkpoints" / "last"
        self.previous = path / "checkpoints" / "previous"
        self._lock: locks.Held | None = None

    def checkpoints(self) -> list[Path]:
        """Folders that hold a checkpoint, in the order in which a resume tries them: the newest first."""
        kept = sorted((self.path / "checkpoints").glob("epoch-*"), key=_epoch_of, reverse=True)
        return [folder for folder in (self.last, self.previous, *kept) if (folder / CHECKPOINT_FILE).exists()]

    @property
    def resumable(self) -> bool:
        """There is something to go on from."""
        return bool(self.checkpoints())

    def read_summary(self) -> dict | None:
        """What the training wrote at its end, and the headlines of its scores; None before that."""
        if not self.summary.exists():
            return None
        summary = read_json(self.summary)
        if wrong := misfit(summary, SUMMARY):
            raise UserError(f"{self.summary} is not a summary that a training wrote ({wrong}): remove it")
        return summary

    def write_summary(self, values: dict) -> None:
        """What a training says at its end."""
        with self.writing_scores(self.summary, OUT):
            write_json(self.summary, values, OUT)

    def update_summary(self, values: dict) -> None:
        """Add values to the summary of a finished training; there is none to add to before that."""
        if self.summary.exists():
            with self.writing_scores(self.summary, OUT):
                summary = self.read_summary()
                if summary is not None:
                    write_json(self.summary, {**summary, **values}, OUT)

    @contextlib.contextmanager
    def writing_scores(self, file: Path, remedy: str) -> Iterator[None]:
        """For one process at a time: read what all have written so far, and write the `file` that follows from it.

        Raises:
            NotWritten: the folder cannot be written, as `file` neither; with the remedy.
        """
        with may_write(file, remedy):
            lock = locks.acquire(self.path / ".summary.lock")
        try:
            yield
        finally:
            lock.release()

    def kept(self, epoch: int) -> Path:
        """Folder of a checkpoint that stays, by the number of epochs done."""
        return self.path / "checkpoints" / f"epoch-{epoch:03d}"

    def drop_kept(self, keep: int) -> None:
        """Remove all but the newest `keep` checkpoints of `kept`."""
        for folder in sorted((self.path / "checkpoints").glob("epoch-*"), key=_epoch_of)[:-keep]:
            shutil.rmtree(folder)

    def check(self, config: Config) -> None:
        """Raise UserError unless the folder is new, empty, or a run that this configuration may continue.

        Before the first checkpoint there is nothing to continue: then another configuration may start over. Writes
        nothing.
        """
        if self.path.exists() and not self.path.is_dir():
            raise UserError(f"--out {self.path} is a file: give a folder")
        if not self.config.exists():
            foreign = [p.name for p in self.path.iterdir() if p.name != ".lock"] if self.path.exists() else []
            if foreign:
                raise UserError(f"--out {self.path} is not a run folder but holds {foreign[0]!r}: give a new folder")
            return
        if not self.resumable:
            return
        old, new = {**Config().flat(), **read_flat(self.config)}, config.flat()  # settings that came later: defaults
        differ = [key for key in {**old, **new} if key not in MAY_DIFFER and old.get(key) != new.get(key)]
        if differ:
            what = ", ".join(f"{key} ({old.get(key)} -> {new.get(key)})" for key in differ)
            raise UserError(
                f"--out {self.path} holds a run of another configuration: {what}. "
                "Give a new folder, or the old values to resume"
            )

    def begin(self, config: Config, data: dict) -> None:
        """Write config.json and data.json: the settings, and which images `--data.train` names (`Content.identity`).

        Raises:
            UserError: they cannot be written.
        """
        for path, content in ((self.config, config.flat()), (self.data, data)):
            try:
                if not path.exists() or read_json(path) != content:
                    write_json(path, content)
            except OSError as error:
                raise UserError(
                    f"{path} cannot be written ({error.strerror or error}): free some space or give another --out"
                ) from None

    def read_data(self) -> dict | None:
        """What the training images were, as `begin` wrote it; None for runs of earlier versions."""
        return read_json(self.data) if self.data.exists() else None

    def lock(self) -> None:
        """Keep every other process out until `unlock` or the end of this process, however it ends."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = locks.acquire(self.path / ".lock", timeout=0)
        except filelock.Timeout:
            raise UserError(f"--out {self.path} is in use by another run: wait for it or give another folder") from None
        except OSError as error:
            raise UserError(
                f"--out {self.path} cannot be written ({error.strerror or error}): give another folder"
            ) from None

    def unlock(self) -> None:
        if self._lock is not None:
            self._lock.release()


def run_identity(config: Config, data_train: str | None = None) -> str:
    """SHA-256 of all settings that decide what a run computes and are not the defaults: its checkpoints carry it.

    With the defaults in it, a half-trained run could not be resumed by a version that has one setting more.

    Args:
        data_train: path of the training images, for the identity that earlier versions gave, which held it.
    """
    defaults = Config().flat()
    decisive = {key: value for key, value in config.flat().items() if key not in MAY_DIFFER and value != defaults[key]}
    if data_train is not None:
        decisive["data.train"] = data_train
    return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()


def _epoch_of(folder: Path) -> int:
    number = folder.name.removeprefix("epoch-")
    return int(number) if number.isdigit() else -1


def read_metrics(path: Path) -> list[dict]:
    """All rows of a metrics.jsonl; a last line torn by a crash is left out.

    Raises:
        UserError: a row that no training wrote, or a file that cannot be read.
    """
    lines = read_text(path).splitlines() if path.exists() else []
    rows = []
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            if number == len(lines):
                break
            row = None
        if wrong := _misfit_of_row(row):
            raise UserError(f"{path} line {number} is not a row that a training wrote ({wrong}): remove it")
        rows.append(row)
    return rows


def _misfit_of_row(row: object) -> str | None:
    """What is wrong with a row of metrics.jsonl; None if nothing is."""
    wrong = misfit(row, ROW)
    if wrong or not isinstance(row, dict):
        return wrong
    if row["kind"] not in ("step", "epoch"):
        return "its kind is neither step nor epoch"
    if "tau2" in row and row["kind"] == "step" and "tau2_std" not in row:
        return "it has no 'tau2_std'"
    for name, value in row.items():
        if name != "kind" and (wrong := misfit(value, [COUNT] if name.endswith("_histogram") else Maybe(LOGGED), name)):
            return wrong
    return None
