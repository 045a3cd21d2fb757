"""The ffcv package's Loader, made to decode the images it is asked for into memory it is given. Imports ffcv."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import ffcv.loader.loader
import numba
import numpy as np
import torch
from ffcv.fields import RGBImageField
from ffcv.libffcv import ctypes_imdecode
from ffcv.loader import Loader
from ffcv.loader.epoch_iterator import EpochIterator
from ffcv.memory_managers import OSCacheManager
from ffcv.pipeline import PipelineSpec
from ffcv.pipeline.allocation_query import AllocationQuery
from ffcv.pipeline.compiler import Compiler
from ffcv.pipeline.operation import Operation
from ffcv.pipeline.state import State
from ffcv.reader import Reader


class MappedFile(OSCacheManager):
    """ffcv's way to the mapped file, with a type of its own for bytes that cannot be written.

    ffcv takes the type that numba has for every uint8 array of the process and makes that one read-only: other compiled
    code, such as our view kernel, is then not found under its types any more.
    """

    BYTES = numba.types.Array(numba.uint8, 1, "C", readonly=True)

    @property
    def state_type(self) -> numba.types.Tuple:
        """Of (bytes of the file, [R] where each record begins, [R] bytes of each record)."""
        return numba.types.Tuple([self.BYTES, numba.uint64[::1], numba.uint64[::1]])

    def compile_reader(self) -> Callable:
        def read(address, state):
            mapped, begins, sizes = state
            return mapped[address : address + sizes[np.searchsorted(begins, address)]]

        return Compiler.compile(read, self.BYTES(numba.uint64, self.state_type))


class DecodeWhole(Operation):
    """Decoder of an image field: the whole image, at its own size, to an address; the return codes are the output."""

    def declare_state_and_memory(self, previous_state: State) -> tuple[State, tuple[AllocationQuery, AllocationQuery]]:
        addresses, codes = AllocationQuery((1,), np.dtype("<u8")), AllocationQuery((1,), np.dtype("<i4"))
        state = dataclasses.replace(previous_state, jit_mode=True, shape=codes.shape, dtype=codes.dtype)
        return state, (addresses, codes)

    def generate_code(self) -> Callable:
        read, iterate = self.memory_read, Compiler.get_iterator()

        def decode(samples, memory, metadata, storage):
            addresses, codes = memory
            for slot in iterate(len(samples)):
                entry = metadata[samples[slot]]
                jpeg = read(entry["data_ptr"], storage)
                h, w = np.uint32(entry["height"]), np.uint32(entry["width"])
                target = addresses[slot, 0]
                codes[slot, 0] = ctypes_imdecode(  # no crop, scale 1 / 1, no flip
                    jpeg.ctypes.data, jpeg.size, h, w, target, h, w, 0, 0, 1, 1, False, False
                )
            return codes

        decode.is_parallel = True  # type: ignore[attr-defined]  # ffcv asks for it
        return decode


class FfcvPipeline:
    """A Loader of which everything runs but its thread.

    It would start one thread per epoch, here per batch, and each leaves its JPEG decoders behind (10 KB a batch). So an
    epoch without batches is opened once, and its pipeline is run from here.
    """

    def __init__(self, path: Path, threads: int):
        self._threads = threads
        fields = Reader(str(path)).handlers
        image = next(name for name, field in fields.items() if isinstance(field, RGBImageField))
        pipelines = {**dict.fromkeys(fields), image: PipelineSpec(image, decoder=DecodeWhole())}
        torch_threads = torch.get_num_threads()
        try:  # ffcv sets the threads of torch, too
            ffcv.loader.loader.OSCacheManager = MappedFile
            self._loader = Loader(str(path), 1, threads, os_cache=True, seed=0, pipelines=pipelines)
            self._epoch = EpochIterator(self._loader, [])
            self._epoch.join()
        finally:
            ffcv.loader.loader.OSCacheManager = OSCacheManager
            torch.set_num_threads(torch_threads)

    def decode(self, ids: np.ndarray, addresses: np.ndarray) -> np.ndarray:
        """Decode the JPEG records `ids` [B], each to its address [B]. Returns [B] int32, 0 where all went well."""
        graph = self._loader.graph
        memory = self._epoch.memory_allocations = graph.allocate_memory(len(ids), 1)
        memory["operation"][graph.nodes[0].id][0][0, :, 0] = addresses
        numba.set_num_threads(self._threads)
        (codes,) = self._epoch.run_pipeline(0, ids, 0, None)
        return codes[:, 0]
