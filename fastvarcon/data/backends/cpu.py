"""Backend cpu: .beton records decoded by a pool of threads, straight into one ragged buffer."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from fastvarcon.data.batch import ImageBatch
from fastvarcon.data.beton import RAW, Beton
from fastvarcon.data.decode import ImageError, decode_rgb


class CpuBackend:
    name = "cpu"

    def __init__(self, path: Path, workers: int):
        self._beton = Beton(path)
        self.classes = self._beton.classes
        self.labels = self._beton.labels
        self._workers = workers
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="fastvarcon-decode")

    def __len__(self) -> int:
        return len(self._beton)

    @property
    def fingerprint(self) -> str:
        return self._beton.fingerprint

    def fetch(self, ids: np.ndarray) -> ImageBatch:
        beton = self._beton
        batch = ImageBatch.empty(beton.heights[ids], beton.widths[ids], self.labels[ids], ids)
        parts = np.array_split(np.arange(len(ids)), min(self._workers, max(1, len(ids))))
        for part in [self._pool.submit(self._decode, ids, slots, batch) for slots in parts]:
            part.result()
        return batch

    def _decode(self, ids: np.ndarray, slots: np.ndarray, batch: ImageBatch) -> None:
        for slot in slots:
            index = int(ids[slot])
            target = batch.image(int(slot)).numpy()
            record = self._beton.record(index)
            if self._beton.modes[index] == RAW:
                target[...] = np.frombuffer(record, dtype=np.uint8).reshape(target.shape)
                continue
            image = decode_rgb(record, self._beton.name(index))
            if image.shape != target.shape:
                raise ImageError(
                    f"{self._beton.name(index)}: decodes to {image.shape[:2]} pixels, its entry says "
                    f"{target.shape[:2]}: convert the images again"
                )
            target[...] = image

    def close(self) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)
