"""Backends of corrupted images: made on the fly, read from arrays of CIFAR-10-C; and what a folder of them holds."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

from fastvarcon.config import DataConfig
from fastvarcon.data.backends import Allocate, Backend, fresh_buffer
from fastvarcon.data.batch import ImageBatch
from fastvarcon.data.content import Content, content_of_files
from fastvarcon.errors import UserError
from fastvarcon.evaluation.corruptions import CORRUPTIONS, corrupt, find
from fastvarcon.evaluation.images import Images
from fastvarcon.evaluation.label_names import label_names
from fastvarcon.models.weights import first_line

SEVERITIES = 5


class Corrupted:
    """The images of another backend, resized and cropped to the evaluation view, then corrupted."""

    def __init__(self, inner: Backend, corruption: str, severity: int, seed: int, data: DataConfig, workers: int):
        find(corruption)
        self._inner, self._corruption, self._severity, self._seed = inner, corruption, severity, seed
        self._size, self._resize, self._filter = data.size, data.eval_resize, data.interpolation
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="fastvarcon-corrupt")
        self.name = f"{inner.name}, {corruption} {severity}"
        self.classes, self.labels, self.sizes = inner.classes, inner.labels, inner.sizes

    @property
    def fingerprint(self) -> str:
        return f"{self._inner.fingerprint} {self._corruption} {self._severity} {self._seed}"

    @property
    def content(self) -> Content:
        return self._inner.content

    def __len__(self) -> int:
        return len(self._inner)

    def fetch(self, ids: np.ndarray, allocate: Allocate = fresh_buffer) -> ImageBatch:
        clean = self._inner.fetch(ids)

        def work(row: int) -> np.ndarray:
            view = evaluation_crop(clean.image(row).numpy(), self._resize, self._size, self._filter)
            return corrupt(view, self._corruption, self._severity, self._seed, int(ids[row]))

        images = list(self._pool.map(work, range(len(ids))))
        return ImageBatch.from_images(images, self.labels[ids], ids, allocate)

    def will_need(self, first: int, last: int) -> None:
        self._inner.will_need(first, last)

    def close(self) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._inner.close()


def evaluation_crop(pixels: np.ndarray, resize: int, size: int, interpolation: str = "bilinear") -> np.ndarray:
    """Shorter side to `resize`, centre [size, size], in PIL: the corruptions are defined on 8-bit views."""
    height, width = pixels.shape[:2]
    shorter = min(height, width)
    if shorter != resize:
        scaled = (width * resize // shorter, height * resize // shorter)
        pixels = np.asarray(Image.fromarray(pixels).resize(scaled, Image.Resampling[interpolation.upper()]))
    top, left = ((side - size) // 2 for side in pixels.shape[:2])
    return pixels[top : top + size, left : left + size]


class CifarC:
    """One severity of one corruption of CIFAR-10-C or CIFAR-100-C: NAME.npy, [5 n, side, side, 3] uint8, severities one
    after another, and labels.npy. Classes are numbers there, in the order that the set defines.

    Args:
        severity: 1 to 5; 0 for an array of n images without corruption.
        classes: names of the training images, which say what a number means (see label_names); None: not asked for.
    """

    def __init__(self, folder: Path, corruption: str, severity: int, classes: Sequence[str] | None = None):
        images = _array(folder / f"{corruption}.npy")
        labels = _array(folder / "labels.npy")
        parts = SEVERITIES if severity else 1
        shaped = images.ndim == 4 and images.shape[3] == 3 and images.dtype == np.uint8 and min(images.shape) > 0
        if not shaped or len(images) % parts:
            raise UserError(
                f"{folder / corruption}.npy has {images.dtype} values of shape {images.shape}: "
                "CIFAR-10-C holds uint8 of [5 n, side, side, 3]"
            )
        count = len(images) // parts
        if labels.ndim != 1 or len(labels) not in (count, SEVERITIES * count) or labels.dtype.kind not in "iu":
            raise UserError(f"{folder}/labels.npy does not go with {count:,} images at each severity")
        first = count * max(0, severity - 1)
        self._images = images[first : first + count]
        own = labels if len(labels) == count else labels[first : first + count]
        self.labels = own.astype(np.int64)
        self.name = f"{corruption} {severity}"
        least, most = int(self.labels.min()), int(self.labels.max())
        self.classes = [str(label) for label in range(most + 1)] if classes is None else label_names(folder, classes)
        if least < 0 or most + 1 != len(self.classes):
            raise UserError(
                f"{folder} has other classes ({most + 1}) than the training images ({len(self.classes)}), by the "
                f"numbers {least} to {most} in its labels.npy: give the set that goes with the training images"
            )
        self.sizes = np.full(count, images[0].nbytes, dtype=np.int64)
        path = folder / f"{corruption}.npy"
        self.fingerprint = hashlib.sha256(f"{path} {path.stat().st_mtime_ns} {severity}".encode()).hexdigest()

    @property
    def content(self) -> Content:
        return content_of_files(self.classes, self.labels, self.sizes, lambda sample: self._images[sample].tobytes())

    def __len__(self) -> int:
        return len(self.labels)

    def fetch(self, ids: np.ndarray, allocate: Allocate = fresh_buffer) -> ImageBatch:
        return ImageBatch.from_images(list(self._images[ids]), self.labels[ids], ids, allocate)

    def will_need(self, first: int, last: int) -> None:
        """The system reads the mapped file ahead by itself."""

    def close(self) -> None:
        self._images = self._images[:0]


def _array(path: Path) -> np.ndarray:
    """Mapped, not read; never unpickled."""
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError, SyntaxError, TypeError, OverflowError, MemoryError) as error:
        raise UserError(f"{path} cannot be read as an array ({first_line(error)}): download it again") from None


def stored_sets(source: Path, wanted: tuple[str, ...]) -> dict[str, Path | None]:
    """{corruption: its folder, or None for an array of CIFAR-10-C} of what `source` holds.

    Folders may lie in groups, as in ImageNet-C's archives: noise/gaussian_noise/1/CLASS/*. Without names wanted, all of
    the fifteen standard ones that are there.

    Raises:
        UserError: nothing there, or something wanted that is not.
    """
    if not source.is_dir():
        raise UserError(f"--source {source} is not a folder: give that of ImageNet-C or of CIFAR-10-C")
    if (source / "labels.npy").exists():
        found: dict[str, Path | None] = {path.stem: None for path in source.glob("*.npy") if path.stem != "labels"}
    else:
        found = {path.parent.name: path.parent for depth in ("*/[1-5]", "*/*/[1-5]") for path in source.glob(depth)}
    missing = [name for name in wanted if name not in found]
    if missing:
        raise UserError(f"--source {source} has no {missing[0]}: it holds {', '.join(sorted(found)) or 'nothing'}")
    names = wanted or tuple(name for name in CORRUPTIONS if name in found)
    if not names:
        raise UserError(
            f"--source {source} holds no corruptions: ImageNet-C is CORRUPTION/SEVERITY/CLASS/*, CIFAR-10-C is *.npy "
            "with labels.npy"
        )
    return {name: found[name] for name in names}


CLEAN = ("clean", "natural", "original", "identity")
"""Names of an array of the same images without corruption, which some sets have."""


def clean_images(source: Path, classes: tuple[str, ...] | None) -> Images | None:
    """The images of a set of arrays as they were before they were corrupted, where it has them."""
    if not (source / "labels.npy").exists():
        return None
    found = [name for name in CLEAN if (source / f"{name}.npy").exists()]
    return Images(source, "cifar-c", found[0], 0, classes=classes) if found else None


def stored_images(
    source: Path, folder: Path | None, corruption: str, severity: int, classes: tuple[str, ...] | None = None
) -> Images:
    """One severity of a corruption that `stored_sets` found, labels numbered in the order of `classes`."""
    if folder is None:
        return Images(source, "cifar-c", corruption, severity, classes=classes)
    return Images(folder / str(severity), "folder", classes=classes)
