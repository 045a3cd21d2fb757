"""The images of an evaluation: where they lie, and what becomes of them before the encoder sees them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from fastvarcon.config import DataConfig
from fastvarcon.data.backends import Backend, open_backend
from fastvarcon.data.backends.renumbered import numbered_as
from fastvarcon.data.loader import ViewSpec
from fastvarcon.errors import UserError


@dataclass(frozen=True)
class Images:
    """Small and plain, as it is sent to the other processes."""

    path: Path
    backend: str
    """Name of a data backend, or "cifar-c" for an array of CIFAR-10-C."""
    corruption: str | None = None
    """Made of the decoded images, see corruptions.py; for "cifar-c", stored that way."""
    severity: int = 0
    policy: str = "eval"
    """Augmentation by name; "eval" = evaluation views."""
    epoch: int = 0
    """Of the augmentation."""
    seed: int = 0
    """Of the augmentation or corruption."""
    classes: tuple[str, ...] | None = None
    """Names in whose order labels are numbered; None: those of the files."""

    def open(self, workers: int, device: torch.device, data: DataConfig) -> Backend:
        """Raises UserError for files that cannot be read, or whose classes are not those asked for."""
        backend = self._open(workers, device, data)
        if self.classes is None:
            return backend
        numbered = numbered_as(backend, self.classes)
        if numbered is None:
            backend.close()
            raise UserError(
                f"{self.path} has other classes than the training images {difference(backend.classes, self.classes)}"
            )
        return numbered

    def _open(self, workers: int, device: torch.device, data: DataConfig) -> Backend:
        if self.backend == "cifar-c":
            from fastvarcon.evaluation.corrupted_sets import CifarC

            return CifarC(self.path, str(self.corruption), self.severity, self.classes)
        backend = open_backend(self.backend, self.path, workers, device=device if self.corruption is None else "cpu")
        if self.corruption is None:
            return backend
        from fastvarcon.evaluation.corrupted_sets import Corrupted

        return Corrupted(backend, self.corruption, self.severity, self.seed, data, workers)

    def spec(self, data: DataConfig) -> ViewSpec:
        """One view of each image. Corrupted ones have been resized and cropped before."""
        resize = data.size if self.corruption is not None and self.backend != "cifar-c" else data.eval_resize
        return dataclasses.replace(eval_spec(data), policy=self.policy, resize=resize)


def difference(theirs: Sequence[str], ours: Sequence[str]) -> str:
    """What keeps two lists of classes from being the same, in brackets, and what to do."""
    only = [name for name in (*theirs, *ours) if (name in theirs) != (name in ours)]
    detail = f", {only[0]!r} in only one" if only else ""
    return f"({len(theirs)} and {len(ours)} classes{detail}): convert them from folders with the same class names"


def eval_spec(data: DataConfig) -> ViewSpec:
    """Evaluation views of a run: resize, centre crop, normalise."""
    return ViewSpec(
        size=data.size,
        mean=data.mean,
        std=data.std,
        policy="eval",
        num_views=1,
        resize=data.eval_resize,
        interpolation=data.interpolation,
    )
