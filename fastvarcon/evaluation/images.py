"""The images of an evaluation: where they lie, and what becomes of them before the encoder sees them."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import torch

from fastvarcon.config import DataConfig
from fastvarcon.data.backends import Backend, open_backend
from fastvarcon.data.loader import ViewSpec
from fastvarcon.data.pairing import Relabelled
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
        if self.classes is None or backend.classes == list(self.classes):
            return backend
        try:
            return Relabelled(backend, list(self.classes))
        except UserError as error:
            backend.close()
            raise UserError(f"{self.path}: {error}") from None

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
