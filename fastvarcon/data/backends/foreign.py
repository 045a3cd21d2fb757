"""What the backends around foreign decoders (dali, nvjpeg, ffcv) share: which record goes to which decoder.

A JPEG record goes to the foreign decoder. All else goes to backend cpu: raw pixels, broken JPEGs, which it names, and
those that the foreign decoder refuses or would not decode as we do. Each of these is reported on stderr once.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from pathlib import Path

import numpy as np
import simplejpeg
import torch
from torch import Tensor

from fastvarcon.data.backends import Allocate, BackendOptions, fresh_buffer
from fastvarcon.data.backends.cpu import CpuBackend
from fastvarcon.data.batch import ImageBatch
from fastvarcon.data.beton import JPG
from fastvarcon.data.content import Content
from fastvarcon.terminal import warn

_PLAIN = ("Gray", "YCbCr")  # decoders differ in what they make of CMYK and RGB inside a JPEG


class ForeignBackend(ABC):
    """See Backend. Images that come from backend cpu lie behind the others in `pixels`, wherever they are in the batch.

    Args:
        device: where the foreign decoder leaves its images. Pixels on a GPU are ready when `fetch` returns; their
            memory is kept for the stream that is current then. Who reads them on another one calls `record_stream`.
    """

    name: str

    def __init__(self, path: Path, options: BackendOptions, device: torch.device):
        if device.type == "cuda" and device.index is None:
            device = torch.device("cuda", torch.cuda.current_device())
        self._host = CpuBackend(path, options)
        self._records = self._host.records
        self.classes, self.labels = self._host.classes, self._host.labels
        self.sizes, self.fingerprint = self._host.sizes, self._host.fingerprint
        self._device = device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._refused: set[int] = set()

    @property
    def content(self) -> Content:
        return self._host.content

    @abstractmethod
    def _run(self, ids: np.ndarray, pixels: Tensor) -> None:
        """Decode these JPEG records, at least one, one after another into flat `pixels` on the device.

        Raises:
            RuntimeError: one of them does not come out; what was written does not matter.
        """

    def __len__(self) -> int:
        return len(self._host)

    def fetch(self, ids: np.ndarray, allocate: Allocate = fresh_buffer) -> ImageBatch:
        if self._stream is None:
            return self._fetch(ids, allocate)
        consumer = torch.cuda.current_stream(self._device)
        # On a stream of our own: to wait for the decoder must not mean to wait for the training queued on theirs.
        with torch.cuda.device(self._device), torch.cuda.stream(self._stream):
            batch = self._fetch(ids, lambda size: torch.empty(size, dtype=torch.uint8, device=self._device))
            self._stream.synchronize()
        batch.pixels.record_stream(consumer)  # or a later fetch would be given memory that the consumer still reads
        return batch

    def _fetch(self, ids: np.ndarray, allocate: Allocate) -> ImageBatch:
        suits = np.array([self._suits(sample) for sample in ids.tolist()], dtype=bool)
        order = np.argsort(~suits, kind="stable")
        packed, count = ids[order], int(suits.sum())
        heights, widths = self._records.heights[packed], self._records.widths[packed]
        batch = ImageBatch.empty(heights, widths, self.labels[packed], packed, allocate)
        if count:
            self._decode(packed[:count], batch.pixels, batch.offset.tolist())
        if count < len(ids):
            self._decode_on_host(packed[count:], batch.pixels[int(batch.offset[count]) :])
        back = torch.from_numpy(np.argsort(order))
        columns = ("offset", "height", "width", "row_stride", "labels", "ids")
        return dataclasses.replace(batch, **{name: getattr(batch, name)[back] for name in columns})

    def _suits(self, sample: int) -> bool:
        """A JPEG that every decoder understands alike, as far as its header tells."""
        records = self._records
        if records.modes[sample] != JPG or sample in self._refused:
            return False
        try:
            height, width, colours, _ = simplejpeg.decode_jpeg_header(records.record(sample))
        except ValueError:
            return False
        return (height, width) == (records.heights[sample], records.widths[sample]) and colours in _PLAIN

    def _decode(self, ids: np.ndarray, pixels: Tensor, offsets: list[int]) -> None:
        try:
            return self._run(ids, pixels)
        except RuntimeError:
            self._host.fetch(ids)  # ImageError, which names it, if one is broken
            refused = [slot for slot in range(len(ids)) if not self._takes(ids[slot], pixels[offsets[slot] :])]
            if len(refused) == len(ids) > 1:
                raise  # whole images, and it takes none of them: the fault lies elsewhere
        for slot in refused:
            self._decode_on_host(ids[slot : slot + 1], pixels[offsets[slot] :])

    def _takes(self, sample: int, pixels: Tensor) -> bool:
        try:
            self._run(np.array([sample]), pixels)
        except RuntimeError:
            return False
        return True

    def _decode_on_host(self, ids: np.ndarray, pixels: Tensor) -> None:
        if pixels.is_cuda:
            decoded = self._host.fetch(ids).pixels
            pixels[: len(decoded)].copy_(decoded)
        else:
            self._host.fetch(ids, lambda size: pixels)
        for sample in ids.tolist():
            if self._records.modes[sample] == JPG and sample not in self._refused:
                self._refused.add(sample)
                name = self._records.name(sample)
                warn(f"{name} is not for {self.name}: backend cpu decodes it")

    def will_need(self, first: int, last: int) -> None:
        self._host.will_need(first, last)

    def close(self) -> None:
        self._host.close()
