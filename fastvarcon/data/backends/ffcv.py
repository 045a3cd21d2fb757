"""Backend ffcv: JPEG records decoded by the ffcv package's own compiled pipeline, to compare with ours.

ffcv decodes with libjpeg-turbo's fast DCT. On 250 ImageNet photographs its pixels differ from those of backend cpu by
25 levels of 255 at most, and by 2.2 on average over the worst of them.

ffcv's own image decoders pass over the decoder's return code: of a damaged record they deliver half an image, or
whatever the buffer held. The operation used here hands the code on, so such records are found as with other backends.
"""

from __future__ import annotations

from pathlib import Path

import numba
import numpy as np
import torch
from torch import Tensor

from fastvarcon.data.backends import BackendOptions
from fastvarcon.data.backends.foreign import ForeignBackend
from fastvarcon.data.beton import Beton
from fastvarcon.errors import UserError


class FfcvBackend(ForeignBackend):
    def __init__(self, path: Path, options: BackendOptions):
        try:
            from fastvarcon.data.backends.ffcv_pipeline import FfcvPipeline
        except ImportError as error:
            raise UserError(
                f'the ffcv backend needs the ffcv package ({error}): pip install "fastvarcon[ffcv]" '
                "(needs libturbojpeg0-dev libopencv-dev pkg-config)"
            ) from None
        super().__init__(path, options, torch.device("cpu"))
        if not isinstance(self._records, Beton):
            self.close()
            raise UserError(f"{path} is not one .beton file: ffcv reads nothing else, choose --data.backend cpu")
        threads = min(options.workers, numba.config.NUMBA_NUM_THREADS)  # numba refuses more threads than cores
        self.name = f"ffcv ({threads} threads)"
        self._pipeline = FfcvPipeline(self._records.path, threads)

    def _run(self, ids: np.ndarray, pixels: Tensor) -> None:
        sizes = 3 * self._records.heights[ids].astype(np.uint64) * self._records.widths[ids].astype(np.uint64)
        codes = self._pipeline.decode(ids, pixels.data_ptr() + np.cumsum(sizes) - sizes)
        if codes.any():
            raise RuntimeError(f"ffcv fails on {np.flatnonzero(codes).size} of {len(ids)} images")

    def close(self) -> None:
        self.__dict__.pop("_pipeline", None)
        super().close()
