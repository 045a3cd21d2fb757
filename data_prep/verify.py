"""Checks every stored record of a dataset against what its tables say."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from fastvarcon.data.beton import RAW
from fastvarcon.data.decode import ImageError, decode_jpeg_into
from fastvarcon.data.records import Records, content_hash

CHUNK = 128  # records a thread takes at a time


@dataclass(frozen=True)
class BadRecord:
    index: int
    label: int
    reason: str
    """One line that names the record."""


@dataclass(frozen=True)
class Verification:
    bad: list[BadRecord]
    conflicts: list[list[int]]
    """Groups of records with the same bytes and different labels, each in the order of the dataset."""


def verify(
    records: Records, *, workers: int, decode: bool, on_images: Callable[[int], None] = lambda images: None
) -> Verification:
    """Compare content hashes, where they are stored, and decode every image unless `decode` is false.

    Places, sizes and labels have been checked when `records` was opened. `on_images` is told of every finished chunk.
    """
    hashes = np.zeros(len(records), dtype=np.uint64)
    bad: list[BadRecord] = []

    def check(first: int) -> tuple[int, list[BadRecord]]:
        last = min(first + CHUNK, len(records))
        records.will_need(first, last)
        found = []
        for index in range(first, last):
            record = records.record(index)
            hashes[index] = content_hash(record)
            reason = _damage(records, index, record, int(hashes[index]), decode)
            if reason:
                found.append(BadRecord(index, int(records.labels[index]), reason))
        return last - first, found

    pool = ThreadPoolExecutor(workers, thread_name_prefix="fastvarcon-verify")
    try:
        for images, found in pool.map(check, range(0, len(records), CHUNK)):
            bad += found
            on_images(images)
    finally:
        pool.shutdown(cancel_futures=True)
    return Verification(bad, conflicting_labels(hashes, records.labels))


def _damage(records: Records, index: int, record: memoryview, found_hash: int, decode: bool) -> str | None:
    if records.hashes is not None and found_hash != records.hashes[index]:
        return f"{records.name(index)}: its bytes are not those that were written (content hash)"
    if not decode or records.modes[index] == RAW:  # raw pixels have the right size since `records` was opened
        return None
    pixels = np.empty((records.heights[index], records.widths[index], 3), dtype=np.uint8)
    try:
        decode_jpeg_into(record, pixels, records.name(index))
    except ImageError as error:
        return str(error)
    return None


def conflicting_labels(hashes: np.ndarray, labels: np.ndarray) -> list[list[int]]:
    """Groups of indices with equal hashes [n] uint64 and labels [n] int64 that differ, ordered by their first index."""
    _, inverse, counts = np.unique(hashes, return_inverse=True, return_counts=True)
    repeated = np.flatnonzero(counts[inverse] > 1)
    order = repeated[np.argsort(hashes[repeated], kind="stable")]
    groups = np.split(order, np.flatnonzero(np.diff(hashes[order])) + 1)
    return sorted(group.tolist() for group in groups if (labels[group] != labels[group[:1]]).any())
