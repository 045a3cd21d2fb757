"""Which kind of data set is stored at a path: by the names of its files, where those say nothing by their content."""

from __future__ import annotations

import os
from pathlib import Path

from fastvarcon.data.folder_walk import entries, is_folder, refuse_dead_link, refuse_link_back
from fastvarcon.data.image_kinds import IMAGE_SUFFIXES, looks_like_image
from fastvarcon.data_prep.sources import cifar, idx, shards
from fastvarcon.data_prep.sources.class_tars import are_class_tars
from fastvarcon.errors import UserError

KIND_OF_SUFFIX = {**dict.fromkeys(IMAGE_SUFFIXES, "folder"), ".parquet": "parquet", ".tar": "webdataset"}
COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")


def detect_kind(path: Path) -> str:
    """The `kind` of `open_source`.

    Raises:
        UserError: nothing there, nothing that fits, or several kinds that do.
    """
    if path.is_dir():
        kinds = _kinds_in(path)
    elif path.exists() or shards.is_pattern(path):
        kinds = _data_sets({_kind_of_file(path.name)})
    else:
        raise UserError(f"{path} does not exist: give a folder with one sub-folder of images per class, or a data set")
    if len(kinds) > 1:
        raise UserError(f"{path} can be read as {' or '.join(sorted(kinds))}: say which with --source")
    if not kinds:
        raise _nothing_known(path)
    kind = kinds.pop()
    return "class-tars" if kind == "webdataset" and not path.is_file() and are_class_tars(path) else kind


def _nothing_known(path: Path) -> UserError:
    """Also names what would be known: a data set one level below, or what a dead link stood for (raised)."""
    for entry in entries(path) if path.is_dir() else []:
        refuse_dead_link(entry)
        if is_folder(entry) and _is_cifar(_files_and_folders(Path(entry.path))[0]):
            return UserError(f"{path} holds the data set {entry.name}: give {entry.path}")
    return UserError(
        f"{path} holds nothing that is known (one sub-folder of images per class, CIFAR batches, IDX files, "
        "*.parquet, *.tar): correct the path, or say what it is with --source"
    )


def _kind_of_file(name: str) -> str | None:
    if idx.NAME.fullmatch(name):
        return "idx"
    if name.lower().endswith(COMPRESSED):
        return "webdataset"  # which says what to do about it
    return KIND_OF_SUFFIX.get(os.path.splitext(name)[1].lower())


def _kinds_in(folder: Path) -> set[str]:
    for entry in entries(folder):
        refuse_link_back(entry, folder)
    files, folders = _files_and_folders(folder)
    kinds = _data_sets({_kind_of_file(name) for name in files})
    if _is_cifar(files):
        kinds.add("cifar")
    below = (_first_kind_below(folder / name) for name in sorted(folders))
    return kinds.union(kind for kind in below if kind)


def _is_cifar(files: set[str]) -> bool:
    return any(set(layout.files) <= files for layout in cifar.LAYOUTS)


def _data_sets(kinds: set[str | None]) -> set[str]:
    """Without loose images, which are in no class."""
    return {kind for kind in kinds if kind and kind != "folder"}


def _first_kind_below(folder: Path) -> str | None:
    """By the first file that says something: class folders are large."""
    files, folders = _files_and_folders(folder)
    kinds = (_kind_of_file(name) for name in sorted(files))
    contents = ("folder" for name in sorted(files) if looks_like_image(str(folder / name)))
    below = (_first_kind_below(folder / name) for name in sorted(folders) if not (folder / name).is_symlink())
    return next((kind for found in (kinds, contents, below) for kind in found if kind), None)


def _files_and_folders(folder: Path) -> tuple[set[str], set[str]]:
    """Their names, without hidden ones."""
    shown = entries(folder)
    folders = {entry.name for entry in shown if is_folder(entry)}
    return {entry.name for entry in shown} - folders, folders
