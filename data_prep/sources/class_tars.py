"""One tar file per class, n01440764.tar with the images of n01440764: how ImageNet is handed out."""

from __future__ import annotations

import itertools
from pathlib import Path

from fastvarcon.data.class_names import one_spelling
from fastvarcon.data_prep.sources.base import class_names, short_name
from fastvarcon.data_prep.sources.shards import choose_split, expand_pattern, files_below
from fastvarcon.data_prep.sources.tar_samples import is_image, list_images, members_of
from fastvarcon.data_prep.sources.tar_source import SUFFIXES, TarSource
from fastvarcon.errors import UserError

LOOKED_AT = 20
"""Members of the first file by which labels would be seen: those of a sample lie together."""


class ClassTarsSource(TarSource):
    """The tar files of a folder or of a pattern; their names are the classes, sorted.

    Raises:
        UserError: a file that is compressed, truncated or damaged, or holds no images; a split that must be chosen.
    """

    def __init__(self, path: Path, split: str | None):
        self.name = short_name(path)
        files = sorted(_class_files(path, split), key=lambda file: one_spelling(file.stem))
        self._set_files(files, [file.name for file in files])
        listed = [list_images(file, label) for label, file in enumerate(files)]
        self._set_samples(listed)
        self.classes = class_names(self.labels, [file.stem for file in files], self.key, path)


def are_class_tars(path: Path) -> bool:
    """Whether `path` means several tar files that hold images without labels, by a look at the first."""
    files = _by_folder(path)
    if max(map(len, files.values()), default=0) < 2:
        return False
    try:
        first = files[min(files)][0]
        names = [member.name.lower() for member, _ in itertools.islice(members_of(first), LOOKED_AT)]
    except UserError:  # which reading it as a shard says as well
        return False
    return any(map(is_image, names)) and not any(name.endswith((".cls", ".json")) for name in names)


def _class_files(path: Path, split: str | None) -> list[Path]:
    folders = _by_folder(path)
    if not folders:
        raise UserError(f"{path} holds no files named *.tar: give the folder they are in")
    return choose_split(folders, split, path)


def _by_folder(path: Path) -> dict[str, list[Path]]:
    """Where there are several folders, they are splits."""
    files = files_below(path, SUFFIXES) if path.is_dir() else expand_pattern(path)
    folders: dict[str, list[Path]] = {}
    for file in files:
        folder = file.parent.relative_to(path).as_posix() if path.is_dir() else str(file.parent)
        folders.setdefault(folder, []).append(file)
    return folders
