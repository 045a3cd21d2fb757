"""Which samples, in which order: a pure function of (seed, epoch, world size, rank).

The global batch of a step is the same set for every world size; rank r takes its r-th contiguous part. So a run can be
resumed, or moved to another number of processes, with nothing but (epoch, step).
"""

from __future__ import annotations

import numpy as np

from fastvarcon.data.philox import philox4x32
from fastvarcon.errors import UserError

ORDER_STREAM = 0x5EED0001
"""Counter word that keeps the sample order apart from the augmentation draws of the same seed."""


def epoch_order(num_samples: int, seed: int, epoch: int, shuffle: bool = True) -> np.ndarray:
    """All sample ids of one epoch, [num_samples] int64. Shuffled: a uniform permutation, stable over numpy versions."""
    if not shuffle:
        return np.arange(num_samples, dtype=np.int64)
    counter = np.arange((num_samples + 1) // 2, dtype=np.uint64)
    words = philox4x32(counter & np.uint64(0xFFFFFFFF), counter >> np.uint64(32), epoch, ORDER_STREAM, seed)
    keys = words.reshape(-1).view(np.uint64)[:num_samples]  # 64 random bits a sample: ties are as good as impossible
    return np.argsort(keys, kind="stable").astype(np.int64)


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
