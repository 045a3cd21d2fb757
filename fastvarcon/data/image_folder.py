"""The layout ROOT/CLASS/**/*.jpg: classes are the sorted folder names, samples sorted by path within a class."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fastvarcon.errors import UserError

IMAGE_SUFFIXES = frozenset((".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"))


SPLIT_NAMES = frozenset(("train", "val", "valid", "validation", "test", "eval"))


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
        UserError: missing or unreadable folder, no class folders, splits in their place, no images in any class.
    """
    if not root.exists():
        raise UserError(f"{root} does not exist: give a folder with one sub-folder of images per class")
    if not root.is_dir():
        raise UserError(f"{root} is a file: give a folder with one sub-folder of images per class")
    classes, loose = _class_folders(root)
    if not classes:
        raise UserError(f"{root} has no class folders: images must lie in {root}/CLASS/")
    if len(classes) > 1 and {name.lower() for name in classes} <= SPLIT_NAMES:
        raise UserError(
            f"{root} holds the splits {', '.join(classes)}, not classes: give one of them, {root / classes[0]}"
        )
    paths: list[Path] = []
    labels: list[int] = []
    ignored = loose
    for label, name in enumerate(classes):
        images, others = _images_below(root / name)
        paths += images
        labels += [label] * len(images)
        ignored += others
    if not paths:
        suffixes = ", ".join(sorted(IMAGE_SUFFIXES))
        raise UserError(f"none of the {len(classes)} class folders in {root} has images ({suffixes}): fill them")
    return ImageFolder(root, classes, paths, np.asarray(labels, dtype=np.int64), ignored)


def _class_folders(root: Path) -> tuple[list[str], int]:
    """Sorted names of the class folders, and the number of files beside them."""
    try:
        entries = [entry for entry in os.scandir(root) if not entry.name.startswith(".")]
    except OSError as error:
        raise UserError(f"{root} cannot be read ({error.strerror})") from None
    classes = sorted(entry.name for entry in entries if entry.is_dir())
    for name in classes:
        if not name.isprintable():  # bytes that are no text, control characters: no file could keep the name
            raise UserError(f"class folder {name!r} in {root} has a name that is not readable text: rename it")
    return classes, len(entries) - len(classes)


def _images_below(folder: Path) -> tuple[list[Path], int]:
    """Sorted image files at any depth, and the number of other files. Hidden entries are passed over."""

    def fail(error: OSError) -> None:
        raise UserError(f"{error.filename} cannot be read ({error.strerror})")

    images: list[Path] = []
    others = 0
    seen: set[tuple[int, int]] = set()
    for parent, folders, names in os.walk(folder, followlinks=True, onerror=fail):
        status = os.stat(parent)
        if (status.st_dev, status.st_ino) in seen:  # a link back to a folder above
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            if name.startswith("."):
                continue
            if os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES:
                images.append(Path(parent, name))
            else:
                others += 1
    return sorted(images), others
