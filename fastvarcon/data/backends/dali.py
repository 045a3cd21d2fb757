"""Backend dali: JPEG records decoded by a pipeline of NVIDIA DALI, on the CPU or the GPU.

The pipeline is an external source, which takes the records as they lie in the mapped file, and the image decoder.

    cpu     device = cpu. libjpeg-turbo with the accurate DCT and smooth chroma upsampling, the pixels of backend cpu to
            the bit.
    mixed   device = a GPU. Its hardware engine and nvJPEG; the pixels stay there, and differ from those of backend cpu
            by the rounding of its inverse DCT and of its chroma interpolation.

DALI ends the whole pipeline at one broken image (NVIDIA/DALI#3913). It is built anew then, and the image is named.
"""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastvarcon.data.backends import BackendOptions
from fastvarcon.data.backends.foreign import ForeignBackend
from fastvarcon.errors import UserError

# Share of a batch for the GPU's JPEG engine. What the engine does not take is decoded by CUDA kernels on the
# multiprocessors, which are the network's, after a Huffman pass on the CPU. The MLPerf records run with the same share.
HW_DECODER_LOAD = 0.99


class DaliBackend(ForeignBackend):
    def __init__(self, path: Path, options: BackendOptions):
        try:
            import nvidia.dali  # noqa: F401
        except ImportError as error:
            raise UserError(f'the dali backend needs NVIDIA DALI ({error}): pip install "fastvarcon[dali]"') from None
        on_gpu = options.device.type == "cuda"
        super().__init__(path, options, options.device if on_gpu else torch.device("cpu"))
        self._decoder = "mixed" if on_gpu else "cpu"
        self.name = f"dali ({self._decoder})"
        self._workers = options.workers
        self._pipeline = None
        self._max_batch = 0

    def _run(self, ids: np.ndarray, pixels: Tensor) -> None:
        if len(ids) > self._max_batch:
            self._pipeline, self._max_batch = None, len(ids)
        pipeline = self._pipeline or self._build()
        self._pipeline = None  # one that fails is of no further use
        pipeline.feed_input("jpegs", [np.frombuffer(self._records.record(i), dtype=np.uint8) for i in ids.tolist()])
        (images,) = pipeline.run()
        shapes = np.stack([self._records.heights[ids], self._records.widths[ids], np.full(len(ids), 3)], axis=1)
        if not np.array_equal(images.shape(), shapes):  # the copy below goes by DALI's sizes
            raise RuntimeError("DALI decoded an image to another size than its header names")
        target = ctypes.c_void_p(pixels.data_ptr())
        if self._stream is None:
            images.copy_to_external(target)
        else:
            images.copy_to_external(target, ctypes.c_void_p(self._stream.cuda_stream))
        self._pipeline = pipeline

    def _build(self) -> Any:
        from nvidia.dali import fn, types
        from nvidia.dali.pipeline import Pipeline

        pipeline = Pipeline(
            batch_size=self._max_batch,
            num_threads=self._workers,
            device_id=None if self._decoder == "cpu" else self._device.index,
            exec_pipelined=False,  # the next batch is not known before it is asked for
            exec_async=False,
            prefetch_queue_depth=1,
        )
        with pipeline:
            jpegs = fn.external_source(name="jpegs", dtype=types.UINT8, ndim=1, no_copy=True)
            images = fn.decoders.image(
                jpegs,
                device=self._decoder,
                output_type=types.RGB,
                adjust_orientation=False,  # records are upright, whatever their EXIF says
                jpeg_fancy_upsampling=True,  # as libjpeg-turbo does; the default on GPUs repeats chroma samples
                hw_decoder_load=HW_DECODER_LOAD,
            )
            pipeline.set_outputs(images)
        pipeline.build()
        return pipeline

    def close(self) -> None:
        self._pipeline = None
        super().close()
