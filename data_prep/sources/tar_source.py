"""Images in tar files: each is a slice of a memory-mapped file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fastvarcon.data.decode import ImageError, check_size
from fastvarcon.data_prep.journal import FileState
from fastvarcon.data_prep.sources.base import Source, file_state, map_bytes
from fastvarcon.data_prep.sources.tar_samples import TarSamples
from fastvarcon.errors import UserError

SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")
"""Compressed ones are found too, so that the reader can say what to do about them."""


class TarSource(Source):
    """What tar files with labels and tar files that are classes have in common; `name` and `classes` are theirs."""

    def _set_files(self, files: Sequence[Path], names: Sequence[str]) -> None:
        """`names`: how messages call them."""
        self._files, self._names = list(files), list(names)
        self._states = [file_state(file) for file in files]

    def _set_samples(self, listed: Sequence[TarSamples]) -> None:
        """Of each file, read after `_set_files`."""
        self.left_out = sum((tar.left_out for tar in listed), Counter())
        self._starts = np.cumsum([0, *(len(tar.members) for tar in listed)])
        self._members = [name for tar in listed for name in tar.members]
        self._offsets = np.asarray([offset for tar in listed for offset in tar.offsets], dtype=np.int64)
        self._sizes = np.asarray([size for tar in listed for size in tar.sizes], dtype=np.int64)
        self.labels = np.asarray([label for tar in listed for label in tar.labels], dtype=np.int64)

    def key(self, index: int) -> str:
        return f"{self._names[self._file(index)]} member {self._members[index]}"

    def read(self, index: int) -> bytes:
        number = self._file(index)
        try:
            cached = self._cache
            if cached is None or cached[0] != number:
                cached = self._cache = (number, map_bytes(self._files[number]))
        except UserError as error:
            raise ImageError(f"{self.key(index)}: {error}") from None
        start, size = int(self._offsets[index]), int(self._sizes[index])
        check_size(size, self.key(index))
        content = cached[1][start : start + size].tobytes()
        if len(content) != size:
            raise ImageError(f"{self.key(index)}: the shard has become shorter")
        return content

    def state(self, index: int) -> FileState:
        return self._states[self._file(index)]

    def _file(self, index: int) -> int:
        return int(np.searchsorted(self._starts, index, side="right")) - 1
