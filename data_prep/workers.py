"""Encoding in parallel over processes: samples of a source in, records out, in order.

Processes, because threads share Python's lock; plain pipes, because threads and semaphores of a pool executor do not
end cleanly with a Ctrl-C. A worker answers the chunks it is sent, and ends when its pipe does. Files that are kept as
they are go through threads instead: reading and hashing need no lock, and no pipe carries their bytes.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import queue
import signal
import threading
from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from fastvarcon.data.decode import ImageError
from fastvarcon.data.records import content_hash
from fastvarcon.data_prep.encode import EncodeSettings, encode
from fastvarcon.data_prep.journal import FileState
from fastvarcon.data_prep.record import Record
from fastvarcon.data_prep.sources import Source
from fastvarcon.data_prep.sources.base import file_state
from fastvarcon.errors import UserError

if TYPE_CHECKING:  # the first is not on every system
    from multiprocessing.context import ForkServerContext, SpawnContext

CHUNK = 32  # images of a task: amortises the trip between processes, and bounds memory
AHEAD = 2  # tasks a worker has at a time: the next one is there when it has done one
WAITING = 3  # tasks per worker that are under way or wait for an earlier one: memory holds their images


class Encoded(NamedTuple):
    """What became of one image."""

    result: tuple[Record, int] | str
    """A record with its content hash, or the message about an image that is broken."""
    state: FileState
    """Of its file, before it was read."""


class WorkerDied(Exception):
    """A worker process ended before its work was done."""


def encode_all(source: Source, samples: range, settings: EncodeSettings, workers: int) -> Generator[list[Encoded]]:
    """Encode in chunks. Closing the iterator ends the workers at once.

    Raises:
        WorkerDied: the system killed a worker, or it printed what went wrong.
    """
    chunks = [samples[i : i + CHUNK] for i in range(0, len(samples), CHUNK)]
    if workers == 1 or len(chunks) <= 1:
        for chunk in chunks:
            yield _encode_chunk(source, chunk, settings)
        return
    by_path = isinstance(source.read(samples[0]), Path)
    if by_path and settings.mode == "keep":
        yield from _by_threads(source, chunks, settings, workers)
        return
    with _started(min(workers, len(chunks)), None if by_path else source, settings) as pool:
        done: dict[int, list[Encoded]] = {}
        of_connection: dict[Any, _Worker] = {worker.connection: worker for worker in pool}
        sent = 0
        for number in range(len(chunks)):
            while number not in done:
                for worker in pool:
                    while worker.tasks < AHEAD and sent < min(number + WAITING * len(pool), len(chunks)):
                        worker.send(sent, _files_of(source, chunks[sent]) if by_path else chunks[sent])
                        sent += 1
                done.update(of_connection[ready].receive() for ready in wait(of_connection))
            yield done.pop(number)


def _by_threads(source: Source, chunks: list[range], settings: EncodeSettings, workers: int) -> Iterator[list[Encoded]]:
    pool = ThreadPoolExecutor(workers, thread_name_prefix="fastvarcon-convert")
    ahead: deque[Future[list[Encoded]]] = deque()
    try:
        for chunk in chunks:
            ahead.append(pool.submit(_encode_chunk, source, chunk, settings))
            if len(ahead) == WAITING * workers:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _encode_chunk(source: Source | _Files, samples: range, settings: EncodeSettings) -> list[Encoded]:
    results: list[Encoded] = []
    for index in samples:
        state = source.state(index)
        try:
            record = encode(source.read(index), source.key(index), settings)
            results.append(Encoded((record, content_hash(record.payload)), state))
        except ImageError as error:
            results.append(Encoded(str(error), state))
    return results


@dataclass(frozen=True)
class _Files:
    """The files of one task: they travel with it, so that a list of a million does not go to every worker."""

    paths: list[str]

    def key(self, index: int) -> str:
        return self.paths[index]

    def read(self, index: int) -> Path:
        return Path(self.paths[index])

    def state(self, index: int) -> FileState:
        return file_state(self.paths[index])


def _files_of(source: Source, samples: range) -> _Files:
    return _Files([str(source.read(index)) for index in samples])


# ---- processes -----------------------------------------------------------------------------------------------------


class _Worker:
    """A worker process, seen from the converting one."""

    def __init__(self, process: BaseProcess, connection: Connection):
        self.process, self.connection = process, connection
        self.tasks = 0
        """Sent and not answered."""

    def send(self, number: int, work: _Files | range) -> None:
        try:
            self.connection.send((number, work))
        except ConnectionError:
            raise WorkerDied from None
        self.tasks += 1

    def receive(self) -> tuple[int, list[Encoded]]:
        try:
            number, result = self.connection.recv()
        except (EOFError, ConnectionError):
            raise WorkerDied from None
        if isinstance(result, UserError):
            raise result
        self.tasks -= 1
        return number, result

    def end(self) -> None:
        self.process.kill()
        self.process.join()
        self.connection.close()


@contextlib.contextmanager
def _started(count: int, source: Source | None, settings: EncodeSettings) -> Iterator[list[_Worker]]:
    # A fork is unsafe in a process with threads. A server that has imported what workers need forks them in no time.
    context: ForkServerContext | SpawnContext = multiprocessing.get_context("spawn")
    if "forkserver" in multiprocessing.get_all_start_methods():
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([__name__])
    workers: list[_Worker] = []
    try:
        if hasattr(signal, "pthread_sigmask"):
            resource_tracker.ensure_running()  # starting it would unblock the signal
        with _interrupts_held_back():
            for _ in range(count):
                ours, theirs = context.Pipe()
                process = context.Process(target=_work, args=(theirs, source, settings), daemon=True)
                process.start()
                theirs.close()
                workers.append(_Worker(process, ours))
        yield workers
    finally:
        for worker in workers:
            worker.end()


@contextlib.contextmanager
def _interrupts_held_back() -> Iterator[None]:
    """Ctrl-C reaches all processes, and only the converting one is to answer it: here, behind this block.

    A process that starts inside inherits that the signal is blocked. Where signals cannot be (Windows), nothing is
    inherited either.
    """
    if not hasattr(signal, "pthread_sigmask") or threading.current_thread() is not threading.main_thread():
        yield
        return
    arrived: list[int] = []  # the system hands a signal to any thread that does not block it, of BLAS say
    handler = signal.signal(signal.SIGINT, lambda number, frame: arrived.append(number))
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        signal.signal(signal.SIGINT, handler)
        if arrived:
            signal.raise_signal(signal.SIGINT)


def _work(connection: Connection, source: Source | None, settings: EncodeSettings) -> None:
    """The life of a worker."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # nothing is inherited on Windows, or from an older server
    tasks: queue.SimpleQueue = queue.SimpleQueue()
    threading.Thread(target=_take_tasks, args=(connection, tasks), daemon=True).start()
    with contextlib.suppress(ConnectionError):  # the converting process has gone
        while True:
            number, work = tasks.get()
            result: list[Encoded] | UserError
            try:
                if isinstance(work, range):
                    assert source is not None, "work by index comes with its source"
                    result = _encode_chunk(source, work, settings)
                else:
                    result = _encode_chunk(work, range(len(work.paths)), settings)
            except UserError as error:
                result = error
            connection.send((number, result))


def _take_tasks(connection: Connection, tasks: queue.SimpleQueue) -> None:
    """Empty the pipe at once: two processes that both wait to write would wait for ever. Its end is the worker's."""
    with contextlib.suppress(EOFError, ConnectionError):
        while True:
            tasks.put(connection.recv())
    os._exit(0)
