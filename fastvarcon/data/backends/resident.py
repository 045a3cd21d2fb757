"""Backend resident: the whole dataset decoded once and kept, so that a batch is nothing but a list of places.

The view kernel reads the images where they lie, but a GPU gets those in host memory as one packed copy a batch. Where
they lie is chosen by `keep`:

    device   memory of the GPU; every process keeps a copy
    pinned   page-locked memory of this process
    shared   one copy for all processes of this machine, in shared memory (page-locked for the GPU of each)
    auto     on a GPU: device if it takes at most half of the free memory there; else shared for several processes of
             one machine, else pinned. Without a GPU: shared for several processes, else ordinary memory

Whether it fits is computed from the table of sizes before anything is decoded.
"""

from __future__ import annotations

import os
import weakref
from pathlib import Path

import numpy as np
import torch

from fastvarcon.data.backends import Allocate, BackendOptions, fresh_buffer
from fastvarcon.data.backends.cpu import CpuBackend
from fastvarcon.data.backends.page_lock import lock, unlock
from fastvarcon.data.batch import ImageBatch
from fastvarcon.data.decode import ImageError
from fastvarcon.errors import UserError
from fastvarcon.machine import available_memory

CHUNK_BYTES = 64 << 20  # decoded at a time
HOST_SHARE = 0.8  # of the available host memory that the pixels may take; the rest is for the training itself
DEVICE_SHARE = 0.5  # the same for GPU memory, under keep="auto"


class ResidentBackend:
    def __init__(self, path: Path, options: BackendOptions):
        decoder = CpuBackend(path, options)
        try:
            records = decoder.records
            self.classes, self.labels, self.fingerprint = decoder.classes, decoder.labels, decoder.fingerprint
            self.sizes, self.content = decoder.sizes, decoder.content
            self._heights, self._widths = records.heights, records.widths
            sizes = 3 * self._heights.astype(np.int64) * self._widths
            ends = np.cumsum(sizes)
            self._offsets, total = ends - sizes, int(ends[-1])
            self._broken: dict[int, str] = {}
            place = choose_place(options, total, path)
            self.name = f"resident ({place})"
            self._shared: SharedPixels | None = None
            self._unlock: weakref.finalize | None = None
            if place == "shared":
                from fastvarcon.data.backends.shared_pixels import SharedPixels

                self._shared = SharedPixels(self.fingerprint, total, pin=options.device.type == "cuda")
                self._pixels = self._shared.pixels
                with self._shared.filled_by_one() as empty:
                    if empty:
                        self._fill(decoder)
                        self._tell_broken(self._shared.notes, path)
                self._broken = {i: f"{records.name(i)}: broken image" for i in _told_broken(self._shared.notes)}
            else:
                where = options.device if place == "device" else "cpu"
                self._pixels = torch.empty(total, dtype=torch.uint8, device=where)
                self._fill(decoder)
            if place == "pinned":
                lock(self._pixels)
                self._unlock = weakref.finalize(self, unlock, self._pixels)  # before the memory goes, whoever forgets
                self._unlock.atexit = False
        finally:
            decoder.close()

    def __len__(self) -> int:
        return len(self.labels)

    def fetch(self, ids: np.ndarray, allocate: Allocate = fresh_buffer) -> ImageBatch:
        for sample in ids.tolist() if self._broken else ():
            if sample in self._broken:
                raise ImageError(self._broken[sample], sample)
        return ImageBatch(
            pixels=self._pixels,
            offset=torch.from_numpy(self._offsets[ids]),
            height=torch.from_numpy(self._heights[ids]),
            width=torch.from_numpy(self._widths[ids]),
            row_stride=torch.from_numpy(3 * self._widths[ids]),
            labels=torch.from_numpy(self.labels[ids]),
            ids=torch.from_numpy(ids.astype(np.int64)),
        )

    def will_need(self, first: int, last: int) -> None:
        """Everything is in memory already."""

    def close(self) -> None:
        if self._unlock is not None:
            self._unlock()
        self._pixels = torch.empty(0, dtype=torch.uint8)
        if self._shared is not None:
            self._shared.close()

    def _fill(self, decoder: CpuBackend) -> None:
        """Decode all images. A broken one is remembered, and raised when it is asked for."""
        chunk = np.cumsum(3 * self._heights.astype(np.int64) * self._widths) // CHUNK_BYTES
        for ids in np.split(np.arange(len(self)), np.flatnonzero(np.diff(chunk)) + 1):
            try:
                self._decode(decoder, ids)
            except ImageError:
                for sample in ids:
                    try:
                        self._decode(decoder, np.array([sample]))
                    except ImageError as error:
                        self._broken[int(sample)] = str(error)

    def _tell_broken(self, notes: np.ndarray, path: Path) -> None:
        if len(self._broken) >= len(notes):
            raise UserError(f"{path} has {len(self._broken)} broken images: see `fastvarcon verify {path}`")
        notes[0] = len(self._broken)
        notes[1 : 1 + len(self._broken)] = list(self._broken)

    def _decode(self, decoder: CpuBackend, ids: np.ndarray) -> None:
        first = int(self._offsets[ids[0]])
        if self._pixels.device.type == "cpu":
            decoder.fetch(ids, lambda num_bytes: self._pixels[first : first + num_bytes])
            return
        batch = decoder.fetch(ids)
        self._pixels[first : first + batch.num_bytes].copy_(batch.pixels)


def _told_broken(notes: np.ndarray) -> list[int]:
    return notes[1 : 1 + int(notes[0])].tolist()


def choose_place(options: BackendOptions, total: int, path: Path) -> str:
    """device, pinned, shared or host. Raises UserError, with the numbers, if the pixels do not fit there."""
    on_gpu = options.device.type == "cuda"
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if options.keep in ("device", "pinned") and not on_gpu:
        raise UserError(f"--data.keep {options.keep} needs a GPU: use --data.keep auto or shared")
    free_device = torch.cuda.mem_get_info(options.device)[0] if on_gpu else 0
    place: str = options.keep
    if place == "auto" and on_gpu and total <= DEVICE_SHARE * free_device:
        place = "device"
    elif place == "auto":
        place = "shared" if processes > 1 else "pinned" if on_gpu else "host"
    copies = processes if place in ("pinned", "host") else 1
    room = free_device if place == "device" else HOST_SHARE * available_memory()
    if place != "shared" and copies * total > room:
        remedy = "--data.keep shared or " if copies > 1 else ""
        raise UserError(
            f"{path} decodes to {copies * total / 1e9:.1f} GB, {room / 1e9:.1f} GB are free ({place} memory): use "
            f"{remedy}--data.backend cpu, or convert with a smaller --max-resolution"
        )
    return place
