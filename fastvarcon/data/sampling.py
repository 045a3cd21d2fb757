"""Which samples, in which order: a pure function of (seed, epoch), shared out by (world size, rank).

The global batch of a step is the same set for every world size; rank r takes its r-th contiguous part. So a run can be
resumed, or moved to another number of processes, with nothing but (epoch, step).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np

from fastvarcon.data.philox import philox4x32
from fastvarcon.errors import UserError

ORDER_STREAM = 0x5EED0001
"""Counter word that keeps the sample order apart from the augmentation draws of the same seed."""
GROUP_STREAM = 0x5EED0002
"""The same for a second, independent draw in one epoch: the order of blocks, or of class groups."""


def random_words(count: int, seed: int, epoch: int, stream: int) -> np.ndarray:
    """[count] uint64 random numbers: a function of the arguments, stable over platforms and numpy versions."""
    counter = np.arange((count + 1) // 2, dtype=np.uint64)
    words = philox4x32(counter & np.uint64(0xFFFFFFFF), counter >> np.uint64(32), epoch, stream, seed)
    return words.reshape(-1).view(np.uint64)[:count]


def permutation(count: int, seed: int, epoch: int, stream: int) -> np.ndarray:
    """A uniform permutation of 0..count - 1, [count] int64."""
    keys = random_words(count, seed, epoch, stream)  # 64 random bits each: ties are as good as impossible
    return np.argsort(keys, kind="stable").astype(np.int64)


def epoch_order(num_samples: int, seed: int, epoch: int, shuffle: bool = True) -> np.ndarray:
    """All sample ids of one epoch, [num_samples] int64: a uniform permutation, or ascending."""
    return permutation(num_samples, seed, epoch, ORDER_STREAM) if shuffle else np.arange(num_samples, dtype=np.int64)


class ReadAhead(NamedTuple):
    """Ranges of samples worth reading in one go before they are needed."""

    at: int
    """Position in the epoch at which to begin."""
    until: int
    """Position at which the last of them has been used."""
    ranges: list[tuple[int, int]]
    """First id, and the id behind the last one."""


class Order(Protocol):
    """The sample ids of every epoch."""

    def __len__(self) -> int:
        """Samples in an epoch, the same number in each."""

    def epoch(self, seed: int, epoch: int) -> np.ndarray:
        """Ids in the order in which they are used, [len] int64."""

    def reads(self, seed: int, epoch: int) -> list[ReadAhead]:
        """What to read ahead, in the order of `at`; nothing for an order that jumps about."""


@dataclass(frozen=True)
class Shuffle:
    """A uniform permutation of all samples, or, with `shuffle` false, dataset order."""

    num_samples: int
    shuffle: bool = True

    def __len__(self) -> int:
        return self.num_samples

    def epoch(self, seed: int, epoch: int) -> np.ndarray:
        return epoch_order(self.num_samples, seed, epoch, self.shuffle)

    def reads(self, seed: int, epoch: int) -> list[ReadAhead]:
        return []


class BlockShuffle:
    """For files larger than memory: blocks of neighbouring samples in random order, samples shuffled within windows.

    A window is a run of blocks that fits in memory. Its blocks lie anywhere in the file, each is read in one
    sequential go, and the samples of the whole window are mixed. Every sample comes once an epoch.

    Args:
        sizes: [n] bytes of each record.
        block_bytes: length of a sequential read; window_bytes: how much is mixed together, and held by the page
            cache (twice, as the next window is read ahead).
    """

    def __init__(self, sizes: np.ndarray, block_bytes: int, window_bytes: int):
        ends = np.cumsum(sizes, dtype=np.int64)
        block = (ends - sizes) // block_bytes  # by where a record starts, if they lie one after another
        self._starts = np.flatnonzero(np.diff(block, prepend=-1))
        self._ends = np.append(self._starts[1:], len(sizes))
        self._blocks_per_window = max(1, window_bytes // block_bytes)
        self._num_samples = len(sizes)

    def __len__(self) -> int:
        return self._num_samples

    def epoch(self, seed: int, epoch: int) -> np.ndarray:
        keys = random_words(self._num_samples, seed, epoch, ORDER_STREAM)
        windows = []
        for blocks in self._windows(seed, epoch):
            ids = np.concatenate([np.arange(self._starts[b], self._ends[b]) for b in blocks])
            windows.append(ids[np.argsort(keys[ids], kind="stable")])
        return np.concatenate(windows).astype(np.int64)

    def reads(self, seed: int, epoch: int) -> list[ReadAhead]:
        previous = position = 0
        reads = []
        for blocks in self._windows(seed, epoch):
            ranges = [(int(self._starts[b]), int(self._ends[b])) for b in blocks]
            until = position + sum(last - first for first, last in ranges)
            reads.append(ReadAhead(previous, until, ranges))  # while the window before it is used
            previous, position = position, until
        return reads

    def _windows(self, seed: int, epoch: int) -> list[np.ndarray]:
        blocks = permutation(len(self._starts), seed, epoch, GROUP_STREAM)
        return np.split(blocks, range(self._blocks_per_window, len(blocks), self._blocks_per_window))


class ClassBalanced:
    """Batches in which every class that is present has `per_class` images (or a multiple of it).

    The images of a class are shuffled and cut into groups of `per_class`; a last, short group is filled up with images
    from the beginning, so that every image comes at least once an epoch. The groups of each class are spread evenly
    over the epoch, at a random phase: the share of a class in the batches is its share in the dataset.

    Args:
        labels: [n] class of each sample, none negative.
    """

    def __init__(self, labels: np.ndarray, per_class: int):
        self._members = [np.flatnonzero(labels == label) for label in np.unique(labels)]
        self._per_class = per_class
        self._groups = [-(-len(ids) // per_class) for ids in self._members]

    def __len__(self) -> int:
        return sum(self._groups) * self._per_class

    def epoch(self, seed: int, epoch: int) -> np.ndarray:
        keys = random_words(sum(map(len, self._members)), seed, epoch, ORDER_STREAM)
        phases = random_words(len(self), seed, epoch, GROUP_STREAM) / 2.0**64
        groups: list[np.ndarray] = []
        places: list[np.ndarray] = []
        for ids, count in zip(self._members, self._groups, strict=True):
            shuffled = ids[np.argsort(keys[ids], kind="stable")]
            groups.append(np.resize(shuffled, (count, self._per_class)))
            places.append((np.arange(count) + phases[len(places)]) / count)
        order = np.argsort(np.concatenate(places), kind="stable")
        return np.concatenate(groups)[order].reshape(-1).astype(np.int64)

    def reads(self, seed: int, epoch: int) -> list[ReadAhead]:
        return []


class Bound:
    """Batches that end with one fixed sample of every class, the first of it; the rest is a uniform permutation.

    So every two classes meet in every batch (batch binding, arXiv 2306.07960, section 5.2). The fixed samples come in
    no other place; samples that would make a last, short batch are left out, others in every epoch.

    Args:
        labels: [n] class of each sample, none negative.
        global_batch: images of all processes in a step.

    Raises:
        UserError: a batch that the fixed samples would fill, or that has more places than there are other samples.
    """

    def __init__(self, labels: np.ndarray, global_batch: int):
        self._fixed = np.unique(labels, return_index=True)[1].astype(np.int64)
        self._others = np.setdiff1d(np.arange(len(labels)), self._fixed)
        self._free = global_batch - len(self._fixed)
        if not 1 <= self._free <= len(self._others):
            raise UserError(
                f"--sampling.bind gives {len(self._fixed)} places of each batch to one image of every class: a "
                f"--train.global-batch of {global_batch} has to be larger, and at most the {len(labels)} images"
            )

    def __len__(self) -> int:
        return len(self._others) // self._free * (self._free + len(self._fixed))

    def epoch(self, seed: int, epoch: int) -> np.ndarray:
        steps = len(self._others) // self._free
        free = self._others[permutation(len(self._others), seed, epoch, ORDER_STREAM)][: steps * self._free]
        return np.hstack([free.reshape(steps, -1), np.tile(self._fixed, (steps, 1))]).reshape(-1)

    def reads(self, seed: int, epoch: int) -> list[ReadAhead]:
        return []


def steps_per_epoch(num_samples: int, global_batch: int, drop_last: bool = True) -> int:
    return num_samples // global_batch if drop_last else -(-num_samples // global_batch)


def local_batch_size(global_batch: int, world_size: int) -> int:
    """Images of one process in a step. Raises UserError if the processes cannot share the batch evenly."""
    if global_batch % world_size:
        raise UserError(
            f"a global batch of {global_batch} images cannot be shared evenly by {world_size} processes: "
            f"use {max(1, global_batch // world_size) * world_size}"
        )
    return global_batch // world_size


def batch_ids(order: np.ndarray, step: int, global_batch: int, world_size: int = 1, rank: int = 0) -> np.ndarray:
    """Ids of `rank` in `step`. The last batch of an epoch may be short: then it is split as evenly as it goes."""
    batch = order[step * global_batch : (step + 1) * global_batch]
    bounds = [len(batch) * r // world_size for r in (rank, rank + 1)]
    return batch[bounds[0] : bounds[1]]
