"""The layout ROOT/CLASS/**/*.jpg: classes are the sorted folder names, samples sorted by path within a class."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fastvarcon.errors import UserError

IMAGE_SUFFIXES = frozenset((".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"))


@dataclass(frozen=True)
class ImageFolder:
    root: Path
    classes: list[str]
    paths: list[Path]
    labels: np.ndarray
    """[n] int64, index into `classes`."""
    ignored: int
    """Files passed over because their suffix is not that of an image."""

    def first_per_class(self, count: int) -> ImageFolder:
        """The same classes with at most `count` images each, the first ones in path order."""
        kept: list[int] = []
        seen = [0] * len(self.classes)
        for index, label in enumerate(self.labels):
            if seen[label] < count:
                seen[label] += 1
                kept.append(index)
        return ImageFolder(self.root, self.classes, [self.paths[i] for i in kept], self.labels[kept], self.ignored)


def scan_image_folder(root: Path) -> ImageFolder:
    """List an image folder.

    Raises:
        UserError: missing folder, no class folders, or a class folder without images.
    """
    if not root.exists():
        raise UserError(f"{root} does not exist: give a folder with one sub-folder of images per class")
    if not root.is_dir():
        raise UserError(f"{root} is a file: give a folder with one sub-folder of images per class")
    classes = sorted(entry.name for entry in os.scandir(root) if entry.is_dir() and not entry.name.startswith("."))
    if not classes:
        raise UserError(f"{root} has no class folders: images must lie in {root}/CLASS/")
    paths: list[Path] = []
    labels: list[int] = []
    ignored = 0
    for label, name in enumerate(classes):
        images, others = _images_below(root / name)
        if not images:
            raise UserError(
                f"class folder {root / name} has no images ({', '.join(sorted(IMAGE_SUFFIXES))}): remove it or fill it"
            )
        paths += images
        labels += [label] * len(images)
        ignored += others
    return ImageFolder(root, classes, paths, np.asarray(labels, dtype=np.int64), ignored)


def _images_below(folder: Path) -> tuple[list[Path], int]:
    images: list[Path] = []
    others = 0
    for parent, _, names in os.walk(folder, followlinks=True):
        for name in names:
            if name.startswith("."):
                continue
            if os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES:
                images.append(Path(parent, name))
            else:
                others += 1
    return sorted(images), others
