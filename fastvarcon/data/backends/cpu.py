"""Backend cpu: records decoded by a pool of threads, straight from the mapped file into one ragged buffer."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from fastvarcon.data.backends import Allocate, BackendOptions, fresh_buffer
from fastvarcon.data.batch import ImageBatch
from fastvarcon.data.beton import RAW
from fastvarcon.data.content import Content, content_of
from fastvarcon.data.decode import ImageError, decode_jpeg_into
from fastvarcon.data.records import open_records


class CpuBackend:
    name = "cpu"

    def __init__(self, path: Path, options: BackendOptions):
        self.records = open_records(path)
        self.classes = self.records.classes
        self.labels = self.records.labels
        self.sizes = self.records.sizes
        self._workers = options.workers
        self._pool = ThreadPoolExecutor(options.workers, thread_name_prefix="fastvarcon-decode")

    def __len__(self) -> int:
        return len(self.records)

    @property
    def fingerprint(self) -> str:
        return self.records.fingerprint

    @functools.cached_property
    def content(self) -> Content:
        return content_of(self.records)

    def fetch(self, ids: np.ndarray, allocate: Allocate = fresh_buffer) -> ImageBatch:
        records = self.records
        batch = ImageBatch.empty(records.heights[ids], records.widths[ids], self.labels[ids], ids, allocate)
        pixels = batch.pixels.numpy()
        offsets = batch.offset.tolist()
        slots = itertools.count()  # shared by the workers: whoever is free takes the next image, so none ends late

        def work() -> None:
            while (slot := next(slots)) < len(ids):
                self._decode(int(ids[slot]), pixels, offsets[slot])

        self._run(work, min(self._workers, len(ids)))
        return batch

    def _run(self, work: Callable[[], None], copies: int) -> None:
        """Run `work` in so many threads; return when all are through, then raise what the first of them raised."""
        if copies <= 1:
            return work()
        errors = [future.exception() for future in [self._pool.submit(work) for _ in range(copies)]]
        for error in errors:
            if error is not None:
                raise error

    def _decode(self, sample: int, pixels: np.ndarray, offset: int) -> None:
        records = self.records
        height, width = int(records.heights[sample]), int(records.widths[sample])
        target = pixels[offset : offset + 3 * height * width]
        record = records.record(sample)
        if records.modes[sample] == RAW:
            target[...] = np.frombuffer(record, dtype=np.uint8)
            return
        try:
            decode_jpeg_into(record, target.reshape(height, width, 3), records.name(sample))
        except ImageError as error:
            raise ImageError(str(error), sample) from None

    def will_need(self, first: int, last: int) -> None:
        self.records.will_need(first, last)

    def close(self) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)
        self.records.close()
