"""The layout ROOT/CLASS/**/*.jpg: classes are the sorted folder names, samples sorted by path within a class."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fastvarcon.data.class_names import check_names, one_spelling, splits_among
from fastvarcon.data.folder_walk import FolderWalk, entries, is_folder, refuse_dead_link, refuse_link_back
from fastvarcon.data.image_kinds import IMAGE_SUFFIXES, LOOSE, kind_of_file, listed, looks_like_image, perhaps_images
from fastvarcon.errors import UserError

LEVELS = 20
"""A look for class folders goes no deeper: links can lead round in circles."""


@dataclass(frozen=True)
class ImageFolder:
    root: Path
    classes: list[str]
    paths: list[Path]
    labels: np.ndarray
    """[n] int64, index into `classes`."""
    left_out: Counter[str]
    """Number of files passed over because they are not images that can be read, by kind: see image_kinds."""

    def first_per_class(self, count: int) -> ImageFolder:
        """The same classes with at most `count` images each, the first ones in path order."""
        kept: list[int] = []
        seen = [0] * len(self.classes)
        for index, label in enumerate(self.labels):
            if seen[label] < count:
                seen[label] += 1
                kept.append(index)
        return ImageFolder(self.root, self.classes, [self.paths[i] for i in kept], self.labels[kept], self.left_out)


def scan_image_folder(root: Path) -> ImageFolder:
    """List an image folder.

    Raises:
        UserError: missing or unreadable folder, no class folders, splits in their place, no images in any class.
    """
    if not root.exists():
        raise UserError(f"{root} does not exist: give a folder with one sub-folder of images per class")
    if not root.is_dir():
        raise UserError(f"{root} is a file: give a folder with one sub-folder of images per class")
    folders, loose = _class_folders(root)
    if not folders:
        raise UserError(f"{root} has no class folders: images must lie in {root}/CLASS/")
    _refuse_a_level_above(root, folders)
    paths: list[Path] = []
    labels: list[int] = []
    left_out = Counter({LOOSE: loose} if loose else {})
    walk = FolderWalk()
    for label, name in enumerate(folders):
        images, others = _images_below(root / name, walk)
        if not images and perhaps_images(others):
            raise UserError(
                f"class folder {root / name} has no images that can be read, only {listed(others)}: convert them to "
                "JPEG, PNG or WebP, or remove the folder"
            )
        paths += images
        labels += [label] * len(images)
        left_out += others
    if not paths:
        found = f", only {listed(left_out)}" if left_out else ""
        raise UserError(
            f"none of the {len(folders)} class folders in {root} has images that can be read{found}: fill them"
        )
    return ImageFolder(root, check_names(folders, root), paths, np.asarray(labels, dtype=np.int64), left_out)


def _class_folders(root: Path) -> tuple[list[str], int]:
    """Names of the class folders, sorted as classes are, and the number of files beside them."""
    found = entries(root)
    for entry in found:
        refuse_dead_link(entry)
    folders = [entry for entry in found if is_folder(entry)]
    for entry in folders:
        refuse_link_back(entry, root)
    names = sorted((entry.name for entry in folders), key=lambda name: (one_spelling(name), name))
    check_names(names, root)
    return names, len(found) - len(names)


def _images_below(folder: Path, walk: FolderWalk) -> tuple[list[Path], Counter[str]]:
    """Sorted image files at any depth, and the number of other files by kind. Hidden entries are passed over."""
    images: list[Path] = []
    others: Counter[str] = Counter()
    for entry in walk.files(folder):
        usual = os.path.splitext(entry.name)[1].lower() in IMAGE_SUFFIXES
        if not usual:
            refuse_dead_link(entry)  # to a folder of images, perhaps; an image is refused when it is read
        kind, readable = ("", True) if usual else kind_of_file(entry.path)
        if readable:
            images.append(Path(entry.path))
        else:
            others[kind] += 1
    return sorted(images), others


# ---- a folder too high -----------------------------------------------------------------------------------------------


def _refuse_a_level_above(root: Path, folders: list[str]) -> None:
    """Raises UserError where the sub-folders are splits, or there is one that holds nothing but folders."""
    inside = _class_level(root)
    if inside == root:
        return
    splits = splits_among(folders)
    if len(folders) > 1:
        raise UserError(f"{root} holds the splits {', '.join(splits)}, not classes: give one of them, {inside}")
    raise UserError(
        f"{root} has one folder, {folders[0]}, and that holds folders: give {inside}, whose folders are the classes"
    )


def _class_level(root: Path) -> Path:
    """The folder, at or below `root`, whose sub-folders look like classes; of several splits the first."""
    folder = root
    for _ in range(LEVELS):
        names = [entry.name for entry in entries(folder) if is_folder(entry)]
        inner = splits_among(names)
        if len(names) == 1 and _holds_only_folders(folder / names[0]):
            inner = names
        if not inner:
            break
        folder = folder / inner[0]
    return folder


def _holds_only_folders(folder: Path) -> bool:
    inside = entries(folder)
    if not any(map(is_folder, inside)):
        return False
    usual = any(os.path.splitext(entry.name)[1].lower() in IMAGE_SUFFIXES for entry in inside)
    return not usual and not any(looks_like_image(entry.path) for entry in inside)
