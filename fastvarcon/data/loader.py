"""Loader: sampling -> backend -> view table -> views, prepared ahead by one background thread.

Everything random is a pure function of (seed, epoch, sample id, view), so the stream does not depend on worker counts,
the world size or on where it was resumed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fastvarcon import kernels
from fastvarcon.data import augment, sampling
from fastvarcon.data.backends import Allocate, Backend
from fastvarcon.data.batch import ImageBatch
from fastvarcon.data.buffers import BufferPool
from fastvarcon.data.producer import Producer
from fastvarcon.errors import UserError

PAD = -1
"""Id and label of a row that only fills up a batch. Its weight is 0: losses and scores ignore negative labels."""


Made = tuple[Tensor, Tensor, Tensor, torch.cuda.Event | None]
"""Views, labels, ids, and the event behind which they are ready; None where they are at once."""


@dataclass(frozen=True)
class ViewSpec:
    """What a batch of views looks like."""

    size: int
    """Side in pixels."""
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    policy: str = "simaugment"
    """Augmentation by name, see data/augment.py; "eval" = resize, centre crop, no randomness."""
    num_views: int = 2
    resize: int = 256
    """Policy "eval" only: pixels of the shorter side before the centre crop."""
    dtype: torch.dtype = torch.float32
    interpolation: str = "bilinear"
    """Or "bicubic", which overshoots at edges. Policy "eval" clips it to [0, 1] as PIL does, with whose images networks
    are evaluated; training leaves it, as torchvision does on float tensors."""

    def table(self, batch: ImageBatch, seed: int, epoch: int) -> augment.ViewTable:
        """Parameters of all views of a batch, whose sizes and ids are on the host."""
        return augment.view_table(
            self.policy,
            seed,
            epoch,
            batch.ids.numpy(),
            self.num_views,
            heights=batch.height.numpy(),
            widths=batch.width.numpy(),
            resize=self.resize,
            size=self.size,
        )

    def views(self, batch: ImageBatch, table: augment.ViewTable) -> torch.Tensor:
        """[V * B, 3, size, size], see `kernels.views`."""
        return kernels.views(
            batch,
            table,
            size=self.size,
            mean=self.mean,
            std=self.std,
            dtype=self.dtype,
            interpolation=self.interpolation,
            clip=self.policy == augment.EVAL and self.interpolation != "bilinear",
        )


class Loader:
    """Iterates `(views, labels, ids)` of this rank up to the end of the epoch.

    views: [V * B, 3, size, size] in the compute dtype on `device`, channels_last, view-major (row v * B + b);
    labels, ids: [B] int64 on `device`. B is the rank's share of the global batch.

    An iteration starts where the last one stopped, so after a `break` it delivers the rest of the epoch; `set_epoch`
    goes to the first step of one. One iteration runs at a time: a new one, `set_epoch` or `close` ends the one under
    way. Use it as a context manager, or call `close`. Leaving an epoch early leaks no thread.

    Args:
        global_batch: images of all ranks in a step.
        train: shuffled, last short batch dropped. Otherwise dataset order, every sample once.
        subset: ids of the samples to use; default all.
        order: another order of sampling.py, over positions of `subset` where one is given.
        prefetch, prefetch_bytes: batches made ahead at most, and the bytes of their views.
        epochs: number of epochs that will be asked for. Up to that the next one is begun while the last batches of
            this one are used; by default every epoch starts with an empty queue.
        sizes: side of the views in each epoch, the last one from there on, where it is not that of `spec` throughout.
        pad: fill a short last batch up to the full size with rows of id and label PAD, so that every rank has the
            same number of rows in every step and each sample counts once.

    Raises:
        UserError: a global batch that exceeds the dataset or that the ranks cannot share.
    """

    def __init__(
        self,
        backend: Backend,
        spec: ViewSpec,
        *,
        global_batch: int,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        train: bool = True,
        subset: np.ndarray | None = None,
        order: sampling.Order | None = None,
        device: torch.device | str = "cpu",
        prefetch: int = 2,
        prefetch_bytes: int = 1 << 30,
        epochs: int | None = None,
        pad: bool = False,
        sizes: Sequence[int] | None = None,
    ):
        self.backend, self.spec, self.device = backend, spec, torch.device(device)
        self.global_batch, self.seed, self.rank, self.world_size = global_batch, seed, rank, world_size
        self.train, self.subset, self.epochs, self.pad, self.sizes = train, subset, epochs, pad, sizes
        self.prefetch, self.prefetch_bytes = prefetch, prefetch_bytes
        self.order = order or sampling.Shuffle(len(backend) if subset is None else len(subset), shuffle=train)
        self.num_samples = len(self.order)
        if global_batch < 1:
            raise UserError(f"the global batch must be at least 1 image, got {global_batch}")
        sampling.local_batch_size(global_batch, world_size)
        if train and global_batch > self.num_samples:
            raise UserError(
                f"a global batch of {global_batch} images is larger than the dataset of {self.num_samples}: "
                "lower --train.global-batch"
            )
        self._epoch, self._step = 0, 0
        self._producer: Producer | None = None
        self._produced: tuple[int, int] | None = None  # position of the producer's next item; None while iterating
        on_gpu = self.device.type == "cuda"
        self._stream = torch.cuda.Stream(self.device) if on_gpu else None
        self._buffers = BufferPool(count=2 if on_gpu else 1, pinned=on_gpu)

    def __len__(self) -> int:
        """Steps in a whole epoch."""
        return sampling.steps_per_epoch(self.num_samples, self.global_batch, drop_last=self.train)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch, from its first step, that the next iteration delivers. Ends an iteration under way."""
        self._go_to(epoch, 0)

    def state_dict(self) -> dict[str, int]:
        """Position after the batches handed out so far."""
        return {"epoch": self._epoch, "step": self._step, "global_batch": self.global_batch}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Continue behind the position of `state_dict`; the next batch is exactly the one that would have come."""
        if state["global_batch"] != self.global_batch:
            raise UserError(
                f"the position was saved with a global batch of {state['global_batch']}, not {self.global_batch}"
            )
        self._go_to(state["epoch"], state["step"])

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        self._go_to(self._epoch, self._step)
        if self._producer is None:
            items = self._batches(self._epoch, self._step)
            self._producer = Producer(items, self.prefetch, self.prefetch_bytes)
        producer, self._produced = self._producer, None
        try:
            for _ in range(self._step, len(self)):
                views, labels, ids, ready = producer.get()
                if ready is not None:  # made on the side stream: order it before the consumer's work
                    current = torch.cuda.current_stream(self.device)
                    current.wait_event(ready)
                    for tensor in (views, labels, ids):
                        tensor.record_stream(current)
                self._step += 1
                yield views, labels, ids
            self._epoch, self._step = self._epoch + 1, 0
            if self.epochs is not None and self._epoch < self.epochs:
                self._produced = (self._epoch, 0)
        finally:
            if producer is self._producer and self._produced is None:
                self._stop_producer()

    def __enter__(self) -> Loader:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop the background thread and free the buffers. The backend stays open: it belongs to whoever opened it."""
        self._stop_producer()
        self._buffers.clear()

    def _go_to(self, epoch: int, step: int) -> None:
        if self._produced != (epoch, step):
            self._stop_producer()
        self._epoch, self._step = epoch, step

    def _stop_producer(self) -> None:
        if self._producer is not None:
            self._producer.stop()
        self._producer = self._produced = None

    # ---- in the background thread ----------------------------------------------------------------------------------

    def _batches(self, epoch: int, step: int) -> Iterator[tuple[Made, int]]:
        """Batches from a position on, to the end of its epoch or, if their number is known, of the last one."""
        if self._stream is not None:  # a thread begins on GPU 0, and whoever returns to it takes memory there
            torch.cuda.set_device(self._stream.device)
        while True:
            order = self.order.epoch(self.seed, epoch)
            reads = [read for read in self.order.reads(self.seed, epoch) if read.until > step * self.global_batch]
            while step < len(self):
                while reads and reads[0].at < (step + 1) * self.global_batch:
                    for first, last in reads.pop(0).ranges:
                        self.backend.will_need(first, last)
                yield self._batch(order, epoch, step)
                step += 1
            epoch, step = epoch + 1, 0
            if self.epochs is None or epoch >= self.epochs:
                return

    def _batch(self, order: np.ndarray, epoch: int, step: int) -> tuple[Made, int]:
        ids = sampling.batch_ids(order, step, self.global_batch, self.world_size, self.rank)
        padding = 0
        if self.pad:
            padding = self.global_batch // self.world_size - len(ids)
            ids = np.append(ids, np.repeat(order[:1], padding))
        ids = ids if self.subset is None else self.subset[ids]
        spec = self._spec(epoch)
        taken: list[Tensor] = []

        def allocate(num_bytes: int) -> Tensor:
            while taken:  # of an attempt that met a broken image
                self._buffers.give_back(taken.pop())
            taken.append(self._buffers.take(num_bytes))
            return taken[0]

        with torch.cuda.stream(self._stream):  # on a CPU: no stream, no effect
            batch = self.backend.fetch(ids, allocate)
            table = spec.table(batch, self.seed, epoch)
            item = self._make_views(batch, table, spec, padding, allocate, pooled=bool(taken))
        for buffer in taken:
            self._buffers.give_back(buffer, item[-1])
        return item, item[0].nbytes

    def _spec(self, epoch: int) -> ViewSpec:
        if self.sizes is None:
            return self.spec
        return dataclasses.replace(self.spec, size=self.sizes[min(epoch, len(self.sizes) - 1)])

    def _make_views(
        self,
        batch: ImageBatch,
        table: augment.ViewTable,
        spec: ViewSpec,
        padding: int,
        allocate: Allocate,
        pooled: bool,
    ) -> Made:
        """(views, labels, ids, CUDA event behind which they are ready); the event also ends the use of the buffer."""
        real = len(batch) - padding
        labels, ids = batch.labels.clone(), batch.ids.clone()
        labels[real:] = ids[real:] = PAD
        if self._stream is None:
            made = spec.views(batch, table)
            return made, labels, ids, None
        if batch.pixels.device.type == "cpu" and not pooled:
            batch = batch.packed(allocate)  # resident in host memory
        if batch.pixels.device.type == "cpu":
            pixels = batch.pixels[: batch.num_bytes].to(self.device, non_blocking=True)
            batch = dataclasses.replace(batch, pixels=pixels)
        labels, ids = (part.pin_memory().to(self.device, non_blocking=True) for part in (labels, ids))
        # sizes stay on the host, where the plain-torch views plan their work
        made = spec.views(batch, table)
        return made, labels, ids, self._stream.record_event()
