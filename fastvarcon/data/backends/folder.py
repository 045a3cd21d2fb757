"""Backend folder: reads an image folder file by file. The slow reference that needs no conversion."""

from __future__ import annotations

import functools
import hashlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from fastvarcon.data.backends import Allocate, BackendOptions, fresh_buffer
from fastvarcon.data.batch import ImageBatch
from fastvarcon.data.content import Content, content_of_files
from fastvarcon.data.decode import ImageError, decode
from fastvarcon.data.image_folder import scan_image_folder
from fastvarcon.data.image_kinds import refuse_left_out
from fastvarcon.errors import UserError, reason
from fastvarcon.terminal import warn


class FolderBackend:
    name = "folder"

    def __init__(self, path: Path, options: BackendOptions):
        folder = scan_image_folder(path)
        refuse_left_out(path, folder.left_out, "move them elsewhere")
        self.classes = folder.classes
        self.labels = folder.labels
        self._paths = folder.paths
        self.sizes = np.array([_size(path) for path in folder.paths], dtype=np.int64)
        self._transparent = False
        """Whether an image with transparent pixels has been reported."""
        self._pool = ThreadPoolExecutor(options.workers, thread_name_prefix="fastvarcon-decode")

    def __len__(self) -> int:
        return len(self._paths)

    @property
    def fingerprint(self) -> str:
        digest = hashlib.sha256()
        for path in self._paths:
            status = path.stat()
            digest.update(f"{path}\0{status.st_size}\0{status.st_mtime_ns}\n".encode(errors="surrogateescape"))
        return digest.hexdigest()

    @functools.cached_property
    def content(self) -> Content:
        return content_of_files(self.classes, self.labels, self.sizes, self._bytes)

    def fetch(self, ids: np.ndarray, allocate: Allocate = fresh_buffer) -> ImageBatch:
        images = list(self._pool.map(self._read, ids.tolist()))
        return ImageBatch.from_images(images, self.labels[ids], ids, allocate)

    def _read(self, sample: int) -> np.ndarray:
        try:
            found = decode(self._paths[sample], str(self._paths[sample]))
        except ImageError as error:
            raise ImageError(str(error), sample) from None
        if found.transparent and not self._transparent:
            self._transparent = True
            warn(
                f"{self._paths[sample]} has transparent pixels: here and in other images they are white; "
                "`fastvarcon convert --background` takes another colour"
            )
        return found.pixels

    def _bytes(self, sample: int) -> bytes:
        try:
            return self._paths[sample].read_bytes()
        except OSError:  # `fetch` names it
            return b""

    def will_need(self, first: int, last: int) -> None:
        """Separate files are left to the system."""

    def close(self) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)


def _size(path: Path) -> int:
    """Bytes. Raises UserError for a link that leads nowhere, or a file that has gone since it was listed."""
    try:
        return path.stat().st_size
    except OSError as error:
        raise UserError(f"{path} cannot be read ({reason(error)}): restore it or remove it") from None
