"""WebDataset shards: tar files in which the members of one sample share a name, KEY.jpg with KEY.cls or KEY.json.

KEY goes up to the first dot of the file name. A label is KEY.cls, an integer in ASCII, else "label" in KEY.json. The
names of the classes come from classes.txt, one a line, or classes.json, a list or {"classes": [...]}, beside the
shards; where there is neither, classes are numbers.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from fastvarcon.data.decode import ImageError
from fastvarcon.data_prep.journal import FileState
from fastvarcon.data_prep.sources.base import Source, class_names, file_state, map_bytes, short_name
from fastvarcon.data_prep.sources.shards import find_shards
from fastvarcon.data_prep.sources.tar_samples import list_samples
from fastvarcon.errors import UserError

SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")
"""Compressed ones are found too, so that the reader can say what to do about them."""


class WebdatasetSource(Source):
    """One shard, those of a folder, or those of a pattern such as train-{0000..0012}.tar.

    The shards are read once to list them, header by header; an image is then a slice of a memory-mapped file.

    Raises:
        UserError: a shard that is missing, compressed, truncated or damaged; a sample without image or label.
    """

    def __init__(self, path: Path, split: str | None):
        self.name = short_name(path)
        self._files, self._names = find_shards(path, split, SUFFIXES)
        self._states = [file_state(file) for file in self._files]
        shards = [list_samples(file) for file in self._files]
        self.ignored = sum(shard.ignored for shard in shards)
        self._starts = np.cumsum([0, *(len(shard.members) for shard in shards)])
        self._members = [name for shard in shards for name in shard.members]
        self._offsets = np.asarray([offset for shard in shards for offset in shard.offsets], dtype=np.int64)
        self._sizes = np.asarray([size for shard in shards for size in shard.sizes], dtype=np.int64)
        self.labels = np.asarray([label for shard in shards for label in shard.labels], dtype=np.int64)
        if len(self.labels) == 0:
            raise UserError(
                f"{path} holds no samples: the members of a shard are named KEY.jpg and KEY.cls or KEY.json"
            )
        self.classes = class_names(self.labels, _listed_classes(self._files[0].parent), self.key, self._files[0].parent)

    def key(self, index: int) -> str:
        return f"{self._names[self._shard(index)]} member {self._members[index]}"

    def read(self, index: int) -> bytes:
        shard = self._shard(index)
        try:
            cached = self._cache
            if cached is None or cached[0] != shard:
                cached = self._cache = (shard, map_bytes(self._files[shard]))
        except UserError as error:
            raise ImageError(f"{self.key(index)}: {error}") from None
        start, size = int(self._offsets[index]), int(self._sizes[index])
        content = cached[1][start : start + size].tobytes()
        if len(content) != size:
            raise ImageError(f"{self.key(index)}: the shard has become shorter")
        return content

    def state(self, index: int) -> FileState:
        return self._states[self._shard(index)]

    def _shard(self, index: int) -> int:
        return int(np.searchsorted(self._starts, index, side="right")) - 1


def _listed_classes(folder: Path) -> list[str] | None:
    files = [file for file in (folder / "classes.txt", folder / "classes.json") if file.exists()]
    if not files:
        return None
    if len(files) > 1:
        raise UserError(f"{folder} has both classes.txt and classes.json: remove one")
    try:
        text = files[0].read_text(encoding="utf-8")
        if files[0].suffix == ".txt":
            return [line.strip() for line in text.strip().split("\n")]
        listed = json.loads(text)
        names = listed["classes"] if isinstance(listed, dict) else listed
    except OSError as error:
        raise UserError(f"{files[0]} cannot be read ({error.strerror})") from None
    except (ValueError, KeyError, RecursionError):
        names = None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise UserError(f"{files[0]} is no list of class names: write a JSON list of text, in the order of the labels")
    return names
