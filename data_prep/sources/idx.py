"""IDX files, the format of MNIST and its kin: NAME-images-idx3-ubyte and NAME-labels-idx1-ubyte, both perhaps .gz.

A file is two zero bytes, a type (8: uint8), the number of dimensions, each dimension as 4 bytes, big end first, then
the values. idx3 is grey [n, h, w], idx4 colour [n, h, w, 3].
"""

from __future__ import annotations

import gzip
import math
import re
import zlib
from pathlib import Path

import numpy as np

from fastvarcon.data.decode import ImageError
from fastvarcon.data_prep.journal import FileState
from fastvarcon.data_prep.sources.base import Source, class_names, file_state, map_bytes, short_name
from fastvarcon.data_prep.sources.shards import choose_split
from fastvarcon.errors import UserError, reason
from fastvarcon.machine import available_memory

NAME = re.compile(r"(?P<set>.*?)[-_.]?(?P<content>images|labels)[-.]idx[134][-.]ubyte(\.gz)?")
GZIP_MAGIC = b"\x1f\x8b"
GZIP_MOST = 1032
"""Times as large as the file can what it holds be."""
UINT8 = 8


class IdxSource(Source):
    """The images of one pair of files; classes are the numbers from 0 to the largest label.

    An unpacked file is memory-mapped; of a .gz file, a process that reads holds all pixels in memory.

    Raises:
        UserError: no such pair, several and none is chosen, or a file that is damaged or not of the other's length.
    """

    def __init__(self, path: Path, split: str | None):
        self._path, labels_path = _find_pair(path, split)
        self.name = short_name(path)
        self._state = file_state(self._path)
        images, labels = _load(self._path), _load(labels_path)
        coloured = images.ndim == 4 and images.shape[3] == 3
        if not (images.ndim == 3 or coloured):
            raise UserError(
                f"{self._path} has dimensions {list(images.shape)}, where images are [n, h, w] or [n, h, w, 3]: "
                "give the file with the images"
            )
        if labels.shape != images.shape[:1]:
            raise UserError(
                f"{labels_path} has dimensions {list(labels.shape)} for {len(images)} images: fetch both files again"
            )
        self._cache = images
        self.labels = labels.astype(np.int64)
        self.classes = class_names(self.labels, None, self.key, path)

    def key(self, index: int) -> str:
        return f"{self._path.name} image {index}"

    def read(self, index: int) -> np.ndarray:
        """[h, w] or [h, w, 3] uint8."""
        if self._cache is None:
            try:
                self._cache = _load(self._path)
            except UserError as error:
                raise ImageError(f"{self.key(index)}: {error}") from None
        if index >= len(self._cache):
            raise ImageError(f"{self.key(index)}: the file has become shorter")
        return np.array(self._cache[index])

    def state(self, index: int) -> FileState:
        return self._state


def _find_pair(path: Path, split: str | None) -> tuple[Path, Path]:
    """The images and their labels. Where a file lies beside its .gz, the unpacked one is taken."""
    folder = path if path.is_dir() else path.parent
    if not path.exists():
        raise UserError(f"{path} does not exist: correct the path")
    if not path.is_dir() and _set_and_content(path.name)[1] != "images":
        raise UserError(f"{path} is not named as IDX images are: give a NAME-images-idx3-ubyte, or its folder")
    found: dict[str, dict[str, Path]] = {}
    for file in sorted(folder.iterdir(), reverse=True):  # x.gz comes before x, which replaces it
        name, content = _set_and_content(file.name)
        if content is not None:
            found.setdefault(name, {})[content] = file
    sets = {name: files for name, files in found.items() if "images" in files}
    if not path.is_dir():
        name, _ = _set_and_content(path.name)
        sets = {name: {**sets[name], "images": path}}
    if not sets:
        raise UserError(f"{folder} holds no IDX images, which are named NAME-images-idx3-ubyte: correct the path")
    files = choose_split(sets, split, path)
    if "labels" not in files:
        wanted = re.sub("images([-.])idx[34]", r"labels\1idx1", files["images"].name)
        raise UserError(f"{files['images']} has no labels beside it: fetch {wanted}")
    return files["images"], files["labels"]


def _set_and_content(name: str) -> tuple[str, str | None]:
    """("emnist-letters-train", "images"); MNIST calls its test set t10k. ("", None) for any other file."""
    match = NAME.fullmatch(name)
    return (match["set"].replace("t10k", "test"), match["content"]) if match else ("", None)


def _load(path: Path) -> np.ndarray:
    """All values in their dimensions, uint8; mapped, or in memory if the file is compressed.

    Raises:
        UserError: not an IDX file of bytes, or of another size than its header says.
    """
    content = map_bytes(path)
    if content[:2].tobytes() == GZIP_MAGIC:
        content = _unpacked(path)
    shape, start = _header(path, content)
    if len(shape) > 4 or 0 in shape:
        raise UserError(
            f"{path} has dimensions {shape}, where one to four are expected, none of them 0: fetch it again"
        )
    if content.size != start + math.prod(shape):
        raise UserError(f"{path} has {content.size} bytes, its header says {start + math.prod(shape)}: fetch it again")
    return content[start:].reshape(shape)


def _header(path: Path, content: np.ndarray) -> tuple[list[int], int]:
    """The dimensions, and where the values begin."""
    if content.size < 4 or content[0] or content[1]:
        raise UserError(f"{path} is not an IDX file: fetch it again")
    if content[2] != UINT8:
        raise UserError(f"{path} holds values of type {content[2]:#04x}, not of bytes (0x08): convert them to bytes")
    start = 4 + 4 * int(content[3])
    if content.size < start:
        raise UserError(f"{path} ends within its header: fetch it again")
    return content[4:start].view(">u4").tolist(), start


def _unpacked(path: Path) -> np.ndarray:
    """Up to a byte more than the header says: the rest of a damaged file might fill the memory."""
    try:
        with gzip.open(path) as file:
            head = file.read(4)
            head += file.read(4 * head[3]) if len(head) == 4 else b""
            shape, _ = _header(path, np.frombuffer(head, np.uint8))
            size, room = math.prod(shape), available_memory()
            if size > GZIP_MOST * path.stat().st_size:
                raise UserError(f"{path} holds fewer than the {size} bytes that its header says: fetch it again")
            if size > room:
                raise UserError(
                    f"{path} unpacks to {size / 1e9:,.1f} GB, {room / 1e9:.1f} GB are free: gunzip it first"
                )
            return np.frombuffer(head + file.read(size + 1), np.uint8)
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path} is not a whole .gz file ({reason(error)}): fetch it again") from None
