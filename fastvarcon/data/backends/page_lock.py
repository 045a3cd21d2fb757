"""Page-locked host memory of exactly the size that is asked for, for datasets.

`torch.empty(..., pin_memory=True)` rounds up to a power of two: 70 GB of pixels would take 128 GiB.
"""

from __future__ import annotations

from typing import SupportsInt

import torch
from torch import Tensor

from fastvarcon.errors import UserError


def lock(pixels: Tensor) -> None:
    """Let the GPU read a host tensor. It must be unlocked before its memory goes.

    Raises:
        UserError: the driver refuses.
    """
    _check(torch.cuda.cudart().cudaHostRegister(pixels.data_ptr(), pixels.nbytes, 0))


def unlock(pixels: Tensor) -> None:
    _check(torch.cuda.cudart().cudaHostUnregister(pixels.data_ptr()))


def _check(code: SupportsInt) -> None:
    if int(code) != 0:
        raise UserError(f"the GPU driver refused to page-lock memory (code {int(code)}): use --data.keep device")
