"""ImageBatch: the one seam between decoding and augmentation."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class ImageBatch:
    """B decoded images of any sizes in one flat buffer, RGB, height x width x channel.

    Pixel (y, x, c) of image i is `pixels[offset[i] + y * row_stride[i] + 3 * x + c]`. A resident dataset, a padded
    canvas and a tensor list of another decoder are all of this form, so augmentation never copies or pads.
    """

    pixels: Tensor
    """Flat uint8, on the host, pinned, or on a device."""
    offset: Tensor
    """[B] int64, bytes."""
    height: Tensor
    """[B] int32, pixels."""
    width: Tensor
    """[B] int32, pixels."""
    row_stride: Tensor
    """[B] int32, bytes."""
    labels: Tensor
    """[B] int64; negative = unlabelled."""
    ids: Tensor
    """[B] int64, sample ids within the dataset."""

    def __len__(self) -> int:
        return len(self.ids)

    def image(self, index: int) -> Tensor:
        """View of one image, [height, width, 3] uint8."""
        height, width = int(self.height[index]), int(self.width[index])
        return self.pixels.as_strided((height, width, 3), (int(self.row_stride[index]), 3, 1), int(self.offset[index]))

    def to(self, device: torch.device | str, non_blocking: bool = False) -> ImageBatch:
        return self._map(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def _map(self, function: Callable[[Tensor], Tensor]) -> ImageBatch:
        return ImageBatch(**{f.name: function(getattr(self, f.name)) for f in dataclasses.fields(self)})

    def packed(self, allocate: Callable[[int], Tensor]) -> ImageBatch:
        """The same images of a host batch, copied one after another into a buffer from `allocate`."""
        sizes = self.height.numpy(), self.width.numpy()
        batch = ImageBatch.empty(*sizes, self.labels.numpy(), self.ids.numpy(), allocate)
        for index in range(len(self)):
            batch.image(index).copy_(self.image(index))
        return batch

    @property
    def num_bytes(self) -> int:
        """Bytes of `pixels` up to the end of the last image."""
        ends = self.offset + self.height.long() * self.row_stride
        return int(ends.max()) if len(self) else 0

    @staticmethod
    def empty(
        heights: np.ndarray,
        widths: np.ndarray,
        labels: np.ndarray,
        ids: np.ndarray,
        allocate: Callable[[int], Tensor] | None = None,
    ) -> ImageBatch:
        """A host batch of the given sizes, images packed one after another, pixels not yet written.

        `allocate(n)` gives a flat uint8 buffer of n bytes or more; default: a new one.
        """
        row_stride = 3 * widths.astype(np.int64)
        sizes = row_stride * heights
        ends = np.cumsum(sizes)
        total = int(ends[-1]) if len(ends) else 0
        return ImageBatch(
            pixels=torch.empty(total, dtype=torch.uint8) if allocate is None else allocate(total),
            offset=torch.from_numpy(ends - sizes),
            height=torch.from_numpy(heights.astype(np.int32)),
            width=torch.from_numpy(widths.astype(np.int32)),
            row_stride=torch.from_numpy(row_stride.astype(np.int32)),
            labels=torch.from_numpy(labels.astype(np.int64)),
            ids=torch.from_numpy(ids.astype(np.int64)),
        )

    @staticmethod
    def from_images(
        images: Sequence[np.ndarray],
        labels: np.ndarray,
        ids: np.ndarray,
        allocate: Callable[[int], Tensor] | None = None,
    ) -> ImageBatch:
        """Pack [height, width, 3] uint8 arrays. Raises ValueError with the number of one that is none."""
        for index, image in enumerate(images):
            if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
                raise ValueError(f"image {index}: [height, width, 3] uint8 expected, not {image.shape} {image.dtype}")
        heights = np.array([image.shape[0] for image in images], dtype=np.int64)
        widths = np.array([image.shape[1] for image in images], dtype=np.int64)
        batch = ImageBatch.empty(heights, widths, np.asarray(labels), np.asarray(ids), allocate)
        for index, image in enumerate(images):
            batch.image(index).numpy()[...] = image
        return batch
