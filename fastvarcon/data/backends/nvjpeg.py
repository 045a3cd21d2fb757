"""Backend nvjpeg: JPEG records decoded in batches on the GPU by torchvision's nvJPEG, on its hardware engine where it
has one, straight from the mapped file.

nvJPEG repeats chroma samples where backend cpu interpolates between them. libjpeg-turbo can do either: that alone moves
the pixels of 250 ImageNet photographs by 58 levels of 255 at most, and by 2.3 on average over the worst of them.

Two hazards (pytorch/vision#9606, meta-pytorch/torchcodec#1634): torchvision decodes on a stream of its own into memory
that the allocator gave for the caller's, and the hardware engine heeds no stream at all. So the decoder may write into
memory that kernels queued before still read. Here the caller's stream is one that the backend keeps for itself, idle
when the decoder starts, and memory that other streams read is kept for them until they are through (`record_stream`).
"""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fastvarcon.data.backends import BackendOptions
from fastvarcon.data.backends.foreign import ForeignBackend
from fastvarcon.errors import UserError

END_OF_IMAGE = b"\xff\xd9"

# torch warns of read-only memory, which nvJPEG only reads. Here and for good, as all threads share the filters.
warnings.filterwarnings("ignore", message="The given NumPy array is not writable")


def decode_jpegs(jpegs: list[Tensor], device: torch.device) -> list[Tensor]:
    """Flat uint8 host tensors -> [3, height, width] uint8 on `device`, grey as three equal channels.

    Raises:
        RuntimeError: nvJPEG refuses one of them.
    """
    from torchvision.io import ImageReadMode, decode_jpeg

    torch.cuda.current_stream(device).synchronize()
    return decode_jpeg(jpegs, mode=ImageReadMode.RGB, device=device)


def require_gpu(device: torch.device) -> None:
    if device.type != "cuda" or not torch.cuda.is_available():
        raise UserError(
            f"the nvjpeg backend needs a CUDA device, and this run is on {device}: choose --data.backend cpu"
        )


class NvjpegBackend(ForeignBackend):
    name = "nvjpeg"

    def __init__(self, path: Path, options: BackendOptions):
        require_gpu(options.device)
        super().__init__(path, options, options.device)

    def _suits(self, sample: int) -> bool:
        # That nvJPEG reports a truncated file is nowhere promised; backend cpu does.
        return self._records.record(sample)[-2:] == END_OF_IMAGE and super()._suits(sample)

    def _run(self, ids: np.ndarray, pixels: Tensor) -> None:
        jpegs = [torch.from_numpy(np.frombuffer(self._records.record(i), dtype=np.uint8)) for i in ids.tolist()]
        heights, widths = self._records.heights[ids].tolist(), self._records.widths[ids].tolist()
        start = 0
        for planes, height, width in zip(decode_jpegs(jpegs, self._device), heights, widths, strict=True):
            end = start + 3 * height * width
            pixels[start:end].view(height, width, 3).copy_(planes.permute(1, 2, 0))
            start = end
