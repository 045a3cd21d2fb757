"""Policy `replace`: a broken image gives its place in the batch to the next one of its class."""

from __future__ import annotations

import numpy as np

from fastvarcon.data.backends import Allocate, Backend, fresh_buffer
from fastvarcon.data.batch import ImageBatch
from fastvarcon.data.content import Content
from fastvarcon.data.decode import ImageError
from fastvarcon.terminal import warn


class ReplaceBadImages:
    """A backend around another one. Which image replaces which depends on the dataset alone, not on who met it first.

    Attributes:
        replaced: id of every broken image met so far -> message. Each is reported on stderr once.
    """

    def __init__(self, backend: Backend):
        self._backend = backend
        self.name, self.classes, self.labels = backend.name, backend.classes, backend.labels
        self.sizes = backend.sizes
        self.replaced: dict[int, str] = {}

    def __len__(self) -> int:
        return len(self._backend)

    @property
    def fingerprint(self) -> str:
        return self._backend.fingerprint

    @property
    def content(self) -> Content:
        return self._backend.content

    def fetch(self, ids: np.ndarray, allocate: Allocate = fresh_buffer) -> ImageBatch:
        """As Backend.fetch; `ids` and `labels` of the batch are those of the images that are in it."""
        while True:
            taken = ids
            if self.replaced:
                taken = np.array([self._substitute(i) if i in self.replaced else i for i in ids.tolist()], np.int64)
            try:
                return self._backend.fetch(taken, allocate)
            except ImageError as error:
                if error.sample is None or error.sample in self.replaced:
                    raise
                self.replaced[error.sample] = str(error)
                substitute = self._substitute(error.sample)
                warn(f"{error}; sample {substitute} takes its place")

    def _substitute(self, bad: int) -> int:
        """The first sample behind `bad` (around the end) of its class that is not known to be broken, else any."""
        behind = np.roll(np.arange(len(self)), -bad - 1)
        good = behind[~np.isin(behind, list(self.replaced))]
        if not len(good):
            raise ImageError("every image of the dataset is broken: convert it again")
        same = good[self.labels[good] == self.labels[bad]]
        return int(same[0] if len(same) else good[0])

    def will_need(self, first: int, last: int) -> None:
        self._backend.will_need(first, last)

    def close(self) -> None:
        self._backend.close()
