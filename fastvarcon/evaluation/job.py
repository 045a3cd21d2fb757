"""What an evaluation gets: the features it asks for, the classes, a device and a seed."""

from __future__ import annotations

import contextlib
import dataclasses
import glob
import importlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch

from fastvarcon import bus_error
from fastvarcon.config import DataConfig
from fastvarcon.config_checks import check_views
from fastvarcon.data.backends import Backend
from fastvarcon.data.class_names import relabel, without_images
from fastvarcon.data.content import Content
from fastvarcon.data.pairing import check_overlap
from fastvarcon.errors import UserError
from fastvarcon.evaluation.features import Extractor, Features, Order, check_labels, check_pair
from fastvarcon.evaluation.images import Images
from fastvarcon.evaluation.options import EVALUATIONS, EvalData, EvalOptions
from fastvarcon.evaluation.processes import Processes
from fastvarcon.evaluation.target import Target, resolve
from fastvarcon.json_file import write_json
from fastvarcon.run_folder import OUT, RunFolder
from fastvarcon.terminal import warn
from fastvarcon.whole_file import NotWritten

PIXEL_SIDE = 32  # raw-pixel features are views of at most this side


@dataclass(frozen=True)
class Job:
    """One encoder and its data. Made by `open_job`, on the first process."""

    target: Target
    data: DataConfig
    """With train, val, backend, size, eval_resize, mean and std filled in."""
    extractor: Extractor
    out: Path
    """Folder that eval/NAME.json goes to."""
    workers: int
    """Decoding threads."""
    device: torch.device
    seed: int
    allow_same: bool = False
    """The held-out images may be the training images."""
    notes: list[str] = field(default_factory=list)
    """What was said about the data."""
    files: list[Callable[[], None]] = field(default_factory=list)
    """An evaluation appends how to write the files that it was asked for; that happens after its scores are shown."""

    @property
    def train_images(self) -> Images:
        if self.data.train is None:
            raise UserError("--data.train is missing: give the labelled images to learn from")
        return self._images("train", self.data.train)

    @property
    def val_images(self) -> Images:
        if self.data.val is None:
            raise UserError("--data.val is missing: give the held-out file to score on")
        return self._images("val", self.data.val)

    def _images(self, which: str, path: Path) -> Images:
        """Raises UserError if they are those of the run and have gone."""
        settings = self.target.settings
        if settings is not None and path == getattr(settings, which) and not there(path):
            raise UserError(
                f"{path}, the --data.{which} of {self.target.title}, is not there any more: give its new place with "
                f"--data.{which} PATH"
            )
        return Images(path, self.data.backend)

    def features(self, images: Images, target: Target | None = None) -> Features:
        """Of this encoder, or of another target at the same views."""
        return self.extractor.features(Order(target or self.target, images, self.data))

    def pair(
        self, train: Images | None = None, val: Images | None = None, target: Target | None = None
    ) -> tuple[Features, Features]:
        """Features of the training and of the held-out images, both under the class numbers of training."""
        images = self.alike(train or self.train_images, val or self.val_images)
        return self.features(images[0], target), self.features(images[1], target)

    def alike(self, train: Images, val: Images) -> tuple[Images, Images]:
        """Both, the labels of the held-out images in the numbers of the training images: classes meet by their names.

        Raises:
            UserError: unlabelled images, classes that training lacks, the same images in both. None is decoded.
        """
        with contextlib.ExitStack() as opened:
            backends: list[Backend] = []
            for one in (train, val):
                backends.append(self.extractor.open(Order(self.target, one, self.data)))
                opened.callback(backends[-1].close)
            check_pair(*backends)
            contents = backends[0].content, backends[1].content
            if train.path == self.data.train:
                self._note(self._other_images(contents[0], train.path))
            self._note(check_overlap(*contents, (train.path, val.path), "--allow-same", self.allow_same))
            for backend, what in zip(backends, ("training images", "held-out images"), strict=True):
                labels = relabel(backend.labels, backend.classes, backends[0].classes)
                self._note(without_images(labels, backends[0].classes, what))
            return train, dataclasses.replace(val, classes=tuple(backends[0].classes))

    def _other_images(self, content: Content, path: Path) -> str | None:
        """A line if these are not the images that the run was trained on."""
        run = self.target.run_folder
        known = None if run is None else RunFolder(run).read_data()
        differences = content.differences(known) if known is not None else []
        if not differences:
            return None
        return f"{path} does not hold the images that {run} was trained on ({'; '.join(differences)})"

    def _note(self, line: str | None) -> None:
        if line is not None and line not in self.notes:
            self.notes.append(line)
            warn(line)

    def val(self) -> Features:
        """Features of the held-out images, checked to be labelled."""
        val = self.features(self.val_images)
        check_labels(val, "--data.val")
        return val

    @property
    def encoder_id(self) -> str | None:
        """SHA-256 that tells the weights; None for pixels."""
        return None if self.target.kind == "pixels" else self.extractor.encoder(self.target, self.data.size)[1]


@dataclass(frozen=True)
class Measured:
    """Figures that are not yet on disk."""

    out: Path
    stem: str
    """Of eval/STEM.json."""
    figures: dict
    files: list[Callable[[], None]]
    """Write what the evaluation was asked to keep besides its figures."""

    def store(self) -> list[str]:
        """Write eval/STEM.json, the other files, and the headline into the summary of a run, if it has one.

        Returns what a user should know of a summary that is left as it is.

        Raises:
            NotWritten: the system refused.
        """
        write_json(self.out / "eval" / f"{self.stem}.json", self.figures, OUT)
        for write in self.files:
            write()
        if self.figures["features"] == "encoder" and "top1" in self.figures:
            try:
                RunFolder(self.out).update_summary({f"{self.stem.replace('-', '_')}_top1": self.figures["top1"]})
            except NotWritten:
                raise
            except UserError as error:  # damaged: the score has its own file
                return [str(error)]
        return []


def evaluate(name: str, options: EvalOptions, command: str) -> tuple[Path, dict] | None:
    """`measure` and store what it found. Returns the folder and the figures on the first process, None on the others.

    Raises:
        UserError: as `measure`; NotWritten: the figures cannot be written.
    """
    measured = measure(name, options, command)
    if measured is None:
        return None
    measured.store()
    return measured.out, measured.figures


def measure(name: str, options: EvalOptions, command: str) -> Measured | None:
    """Run evaluation `name`. Returns its figures on the first process, None on the others.

    Raises:
        UserError: for flags, files and weights that do not fit.
    """
    options.validate()
    start = time.perf_counter()
    with Processes() as processes:
        if processes.rank:
            with bus_error.explained("the images"):
                Extractor(processes, options.data.workers or processes.cores).serve()
            return None
        job = open_job(options, processes)
        run = importlib.import_module(f"fastvarcon.evaluation.{EVALUATIONS[name].module}").run
        with bus_error.explained(f"{job.data.train} or {job.data.val}"):
            figures = run(job, options)
        result = {
            "name": name,
            "features": options.features,
            "title": job.target.title,
            "encoder_sha256": job.encoder_id,
            **figures,
            "data.train": None if job.data.train is None else str(job.data.train),
            "data.val": None if job.data.val is None else str(job.data.val),
            "size": job.data.size,
            "device": job.device.type,
            "world_size": processes.world_size,
            "command": command,
            "seed": options.seed,
            "seconds": round(time.perf_counter() - start, 3),
            **({"warnings": job.notes} if job.notes else {}),
        }
        return Measured(job.out, name + options.stem, result, job.files)


def open_job(options: EvalOptions, processes: Processes) -> Job:
    """RUN and its flags -> Job. Raises UserError for a RUN or flags that do not fit."""
    target = resolve(options.run, options.weights)
    data = data_settings(target, options.data)
    out = options.out or (target.place if target.kind == "run" else Path("runs") / f"eval-{target.title}")
    workers = options.data.workers or processes.cores
    if options.features == "pixels":
        target = dataclasses.replace(target, kind="pixels")
        side = min(data.size, PIXEL_SIDE)
        data = dataclasses.replace(data, size=side, eval_resize=max(side, round(data.eval_resize * side / data.size)))
    extractor = Extractor(processes, workers, out / "features", target)
    return Job(target, data, extractor, out, workers, processes.device, options.seed, options.allow_same)


def there(path: Path) -> bool:
    """A file, a folder, or a pattern that something matches."""
    return path.exists() or bool(glob.glob(str(path)))


def data_settings(target: Target, flags: EvalData) -> DataConfig:
    """Those of the run, under the flags that are given."""
    base = target.settings or DataConfig()
    given = {
        field.name: getattr(flags, field.name)
        for field in dataclasses.fields(flags)
        if getattr(flags, field.name) is not None and field.name != "workers"
    }
    if "size" in given and "eval_resize" not in given and given["size"] != base.size:
        given["eval_resize"] = round(given["size"] * base.eval_resize / base.size)
    if "backend" not in given and base.backend == "resident":
        given["backend"] = "cpu"
    data = dataclasses.replace(base, **given)
    check_views(data)
    return data
