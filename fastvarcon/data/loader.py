"""Loader: sampling -> backend -> view table -> views, prepared ahead by one background thread.

Everything random is a pure function of (seed, epoch, sample id, view), so the stream does not depend on worker counts,
the world size or on where it was resumed.
"""

from __future__ import annotations

import atexit
import contextlib
import dataclasses
import queue
import threading
import weakref
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fastvarcon import kernels
from fastvarcon.data import augment, sampling
from fastvarcon.data.backends import Backend
from fastvarcon.data.batch import ImageBatch
from fastvarcon.errors import UserError


@dataclass(frozen=True)
class ViewSpec:
    """What a batch of views looks like."""

    size: int
    """Side in pixels."""
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    policy: str | None = "simaugment"
    """Augmentation policy by name; None = evaluation: resize, centre crop, no randomness."""
    num_views: int = 2
    resize: int = 256
    """Evaluation only: pixels of the shorter side before the centre crop."""
    dtype: torch.dtype = torch.float32


class Loader:
    """Iterates `(views, labels, ids)` of this rank up to the end of the epoch.

    An iteration starts where the last one stopped, so after a `break` it delivers the rest of the epoch; `set_epoch`
    goes to the first step of one. One iteration runs at a time: a new one, `set_epoch` or `close` ends the one under
    way.

    views: [V * B, 3, size, size] in the compute dtype on `device`, channels_last, view-major (row v * B + b);
    labels, ids: [B] int64 on `device`. B is the rank's share of the global batch.

    Use it as a context manager, or call `close`. Leaving an epoch early leaks no thread.

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
        device: torch.device | str = "cpu",
        prefetch: int = 2,
    ):
        self.backend, self.spec, self.device = backend, spec, torch.device(device)
        self.global_batch, self.seed, self.rank, self.world_size = global_batch, seed, rank, world_size
        self.train, self.subset, self.prefetch = train, subset, prefetch
        self.num_samples = len(backend) if subset is None else len(subset)
        if global_batch < 1:
            raise UserError(f"the global batch must be at least 1 image, got {global_batch}")
        sampling.local_batch_size(global_batch, world_size)
        if train and global_batch > self.num_samples:
            raise UserError(
                f"a global batch of {global_batch} images is larger than the dataset of {self.num_samples}: "
                "lower --train.global-batch"
            )
        self._epoch, self._step = 0, 0
        self._producer: _Producer | None = None
        self._stream = torch.cuda.Stream(self.device) if self.device.type == "cuda" else None

    def __len__(self) -> int:
        """Steps in a whole epoch."""
        return sampling.steps_per_epoch(self.num_samples, self.global_batch, drop_last=self.train)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch, from its first step, that the next iteration delivers. Ends an iteration under way."""
        self._stop_producer()
        self._epoch, self._step = epoch, 0

    def state_dict(self) -> dict[str, int]:
        """Position after the batches handed out so far."""
        return {"epoch": self._epoch, "step": self._step, "global_batch": self.global_batch}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Continue behind the position of `state_dict`; the next batch is exactly the one that would have come."""
        if state["global_batch"] != self.global_batch:
            raise UserError(
                f"the position was saved with a global batch of {state['global_batch']}, not {self.global_batch}"
            )
        self._stop_producer()
        self._epoch, self._step = state["epoch"], state["step"]

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        self._stop_producer()
        producer = self._producer = _Producer(self._batches(self._epoch, self._step), self.prefetch)
        try:
            for views, labels, ids, ready in producer:
                if ready is not None:  # made on the side stream: order it before the consumer's work
                    current = torch.cuda.current_stream(self.device)
                    current.wait_event(ready)
                    for tensor in (views, labels, ids):
                        tensor.record_stream(current)
                self._step += 1
                yield views, labels, ids
            self._epoch, self._step = self._epoch + 1, 0
        finally:
            producer.stop()

    def __enter__(self) -> Loader:
        return self

    def __exit__(self, *exception) -> None:
        self.close()

    def close(self) -> None:
        """Stop the background thread. The backend stays open: it belongs to whoever opened it."""
        self._stop_producer()

    def _stop_producer(self) -> None:
        if self._producer is not None:
            self._producer.stop()
            self._producer = None

    def _batches(self, epoch: int, first_step: int):
        order = sampling.epoch_order(self.num_samples, self.seed, epoch, shuffle=self.train)
        order = order if self.subset is None else self.subset[order]
        for step in range(first_step, len(self)):
            ids = sampling.batch_ids(order, step, self.global_batch, self.world_size, self.rank)
            batch = self.backend.fetch(ids)
            yield self._make_views(batch, self._table(batch, epoch))

    def _table(self, batch: ImageBatch, epoch: int) -> augment.ViewTable:
        heights, widths = batch.height.numpy(), batch.width.numpy()
        if self.spec.policy is None:
            return augment.eval_params(heights, widths, resize=self.spec.resize, size=self.spec.size)
        return augment.ViewTable.cat(
            [
                augment.view_params(
                    self.spec.policy, self.seed, epoch, batch.ids.numpy(), view, heights=heights, widths=widths
                )
                for view in range(self.spec.num_views)
            ]
        )

    def _make_views(self, batch: ImageBatch, table: augment.ViewTable):
        spec = self.spec
        if self._stream is None:
            made = kernels.views(batch, table, size=spec.size, mean=spec.mean, std=spec.std, dtype=spec.dtype)
            return made, batch.labels, batch.ids, None
        with torch.cuda.stream(self._stream):
            names = ("pixels", "labels", "ids")  # sizes stay on the host, where the plain-torch views plan their work
            moved = {name: getattr(batch, name).pin_memory().to(self.device, non_blocking=True) for name in names}
            batch = dataclasses.replace(batch, **moved)
            made = kernels.views(batch, table, size=spec.size, mean=spec.mean, std=spec.std, dtype=spec.dtype)
            return made, batch.labels, batch.ids, self._stream.record_event()


_running: weakref.WeakSet[_Producer] = weakref.WeakSet()


class _Producer:
    """Runs an iterator in a thread, at most `depth` items ahead. Exceptions arrive where the item would have."""

    _END = object()

    def __init__(self, items: Iterator, depth: int):
        self._items = items
        self._queue: queue.Queue = queue.Queue(depth)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="fastvarcon-loader", daemon=True)
        _running.add(self)
        self._thread.start()

    def __iter__(self):
        while True:
            try:
                item = self._queue.get(timeout=0.5)
            except queue.Empty:
                if self._stopped.is_set():
                    raise RuntimeError("the loader was closed or iterated anew while this iteration ran") from None
                continue
            if item is self._END:
                return
            if isinstance(item, BaseException):
                raise item
            yield item

    def stop(self) -> None:
        """Ask the thread to end, wait for it, and forget what it has prepared."""
        self._stopped.set()
        self._thread.join()
        with contextlib.suppress(queue.Empty):
            while True:
                self._queue.get_nowait()

    @torch.no_grad()
    def _run(self) -> None:
        try:
            for item in self._items:
                self._put(item)
                if self._stopped.is_set():
                    return
            self._put(self._END)
        except BaseException as error:
            self._put(error)

    def _put(self, item) -> None:
        while not self._stopped.is_set():
            try:
                return self._queue.put(item, timeout=0.05)
            except queue.Full:
                continue


@atexit.register
def _stop_producers() -> None:
    """A thread that is inside torch while the interpreter goes down would abort the process."""
    for producer in list(_running):
        producer.stop()
