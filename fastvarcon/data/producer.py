"""One background thread that runs an iterator ahead of its consumer, bounded in items and in bytes."""

from __future__ import annotations

import atexit
import threading
import weakref
from collections import deque
from collections.abc import Iterator
from typing import Any

import torch

_running: weakref.WeakSet[Producer] = weakref.WeakSet()


class Producer:
    """Items of `items`, made in a thread. An exception arrives where its item would have.

    Args:
        items: yields (item, bytes that it holds).
        depth: items prepared ahead at most.
        max_bytes: bytes prepared ahead at most; one item is always allowed, however large.
    """

    def __init__(self, items: Iterator[tuple[object, int]], depth: int, max_bytes: int):
        self._items, self._depth, self._max_bytes = items, depth, max_bytes
        self._ready: deque[tuple[object, int]] = deque()
        self._bytes = 0
        self._stopped = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="fastvarcon-loader", daemon=True)
        _running.add(self)
        self._thread.start()

    def get(self) -> Any:
        """The next item; waits for it.

        Raises:
            RuntimeError: the producer was stopped, or has no more.
            Exception: whatever making the item raised.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._stopped or self._ready)
            if self._stopped:
                raise RuntimeError("the loader was closed or iterated anew while this iteration ran")
            item, size = self._ready.popleft()
            self._bytes -= size
            self._changed.notify_all()
        if isinstance(item, BaseException):
            raise item
        return item

    def stop(self) -> None:
        """Ask the thread to end, wait for it, and forget what it has prepared. May be called twice."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        self._thread.join()
        self._ready.clear()

    @torch.no_grad()
    def _run(self) -> None:
        try:
            for item, size in self._items:
                if not self._put(item, size):
                    return
            self._put(RuntimeError("no batch is left"), 0)
        except BaseException as error:
            self._put(error, 0)
        finally:
            self._items = iter(())  # the last item made may be large

    def _put(self, item: object, size: int) -> bool:
        """Whether there is still somebody to make items for."""

        def room() -> bool:
            fits = len(self._ready) < self._depth and self._bytes + size <= self._max_bytes
            return self._stopped or fits or not self._ready

        with self._changed:
            self._changed.wait_for(room)
            if not self._stopped:
                self._ready.append((item, size))
                self._bytes += size
                self._changed.notify_all()
            return not self._stopped


@atexit.register
def _stop_all() -> None:
    """A thread that is inside torch while the interpreter goes down would abort the process."""
    for producer in list(_running):
        producer.stop()
