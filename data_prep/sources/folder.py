"""Image folders: one sub-folder of image files per class."""

from __future__ import annotations

from pathlib import Path

from fastvarcon.data.image_folder import scan_image_folder
from fastvarcon.data_prep.journal import FileState
from fastvarcon.data_prep.sources.base import Source, file_state, short_name
from fastvarcon.errors import UserError


class FolderSource(Source):
    """ROOT/CLASS/**/*.jpg, or ROOT/SPLIT/CLASS/**/*.jpg if `split` is given.

    Raises:
        UserError: see `scan_image_folder`; or no sub-folder of the name of the split.
    """

    def __init__(self, root: Path, split: str | None):
        if split is not None:
            if not (root / split).is_dir():
                raise UserError(f"{root} has no sub-folder {split}: choose another --split, or leave it out")
            root = root / split
        folder = scan_image_folder(root)
        self.name = short_name(root)
        self.classes, self.labels, self.left_out = folder.classes, folder.labels, folder.left_out
        self._paths = [str(path) for path in folder.paths]  # a million strings pickle much faster than as many paths

    def key(self, index: int) -> str:
        return self._paths[index]

    def read(self, index: int) -> Path:
        return Path(self._paths[index])

    def state(self, index: int) -> FileState:
        return file_state(self._paths[index])
