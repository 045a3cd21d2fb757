"""Encoding in parallel over processes: samples of a source in, records out, in order."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from fastvarcon.data.decode import ImageError
from fastvarcon.data.records import content_hash
from fastvarcon.data_prep.encode import EncodeSettings, encode
from fastvarcon.data_prep.record import Record
from fastvarcon.data_prep.sources import Source

CHUNK = 32  # images a worker takes at a time: amortises the trip between processes, and bounds memory

Encoded = tuple[Record, int] | str
"""A record with its content hash, or the message about an image that is broken."""

_source: Source | None = None
"""In a worker: the source to read from."""


def encode_all(source: Source, samples: range, settings: EncodeSettings, workers: int) -> Iterator[list[Encoded]]:
    """Encode in chunks. At most three chunks per worker are under way: memory holds their images.

    Raises:
        BrokenProcessPool: a worker died.
    """
    chunks = [samples[i : i + CHUNK] for i in range(0, len(samples), CHUNK)]
    if workers == 1 or len(chunks) <= 1:
        for chunk in chunks:
            yield _encode_chunk(source, chunk, settings)
        return
    by_path = isinstance(source.read(samples[0]), Path)
    starting = (None if by_path else source,)
    with ProcessPoolExecutor(min(workers, len(chunks)), _context(), initializer=_begin, initargs=starting) as pool:
        waiting: deque[Future] = deque()
        try:
            for chunk in chunks:
                files = _Files([str(source.read(i)) for i in chunk]) if by_path else None
                with _interrupts_blocked():
                    waiting.append(pool.submit(_encode_in_worker, files, chunk, settings))
                if len(waiting) >= 3 * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def _encode_chunk(source: Source | _Files, samples: range, settings: EncodeSettings) -> list[Encoded]:
    results: list[Encoded] = []
    for index in samples:
        try:
            record = encode(source.read(index), source.key(index), settings)
            results.append((record, content_hash(record.payload)))
        except ImageError as error:
            results.append(str(error))
    return results


# ---- in and around the worker processes ----------------------------------------------------------------------------


@dataclass(frozen=True)
class _Files:
    """The files of one task: they travel with it, so that a list of a million does not go to every worker."""

    paths: list[str]

    def key(self, index: int) -> str:
        return self.paths[index]

    def read(self, index: int) -> Path:
        return Path(self.paths[index])


def _encode_in_worker(files: _Files | None, samples: range, settings: EncodeSettings) -> list[Encoded]:
    return (
        _encode_chunk(_source, samples, settings)
        if files is None
        else _encode_chunk(files, range(len(samples)), settings)
    )


def _begin(source: Source | None) -> None:
    """Prepare a worker. It ends when the converting process is gone, however it went: nobody else would tell it."""
    global _source
    _source = source
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all; the converting process says what happens

    def watch() -> None:
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _context() -> multiprocessing.context.BaseContext:
    """Processes that start clean: a fork is unsafe in a process with threads. Those of a server start in no time."""
    if "forkserver" not in multiprocessing.get_all_start_methods():  # Windows
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    return context


@contextlib.contextmanager
def _interrupts_blocked() -> Iterator[None]:
    """Ctrl-C waits until this is left. Processes that start inside never get it, not even before `_begin`."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
