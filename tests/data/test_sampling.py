import numpy as np
import pytest
from scipy import stats

from fastvarcon.data.sampling import (
    BlockShuffle,
    Bound,
    ClassBalanced,
    batch_ids,
    epoch_order,
    local_batch_size,
    steps_per_epoch,
)
from fastvarcon.errors import UserError


def test_order_is_a_permutation_that_depends_on_seed_and_epoch_alone():
    orders = [epoch_order(101, seed, epoch) for seed, epoch in ((0, 0), (0, 0), (0, 1), (1, 0))]
    assert all(sorted(order) == list(range(101)) for order in orders)
    assert (orders[0] == orders[1]).all()
    assert (orders[0] != orders[2]).any() and (orders[0] != orders[3]).any()


def test_order_is_pinned():
    """The same order on every platform and numpy version: a resumed run depends on it."""
    assert epoch_order(8, seed=3, epoch=2).tolist() == [3, 4, 1, 0, 6, 2, 7, 5]


def test_every_position_is_equally_likely():
    """Chi-square over where sample 0 lands in 2,000 epochs of 10 samples."""
    places = [int(np.argmin(epoch_order(10, seed=0, epoch=epoch))) for epoch in range(2000)]
    assert stats.chisquare(np.bincount(places, minlength=10)).pvalue > 1e-3


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_ranks_share_the_same_global_batch(world_size):
    order = epoch_order(50, 0, 0)
    for step in range(steps_per_epoch(50, 8)):
        parts = [batch_ids(order, step, 8, world_size, rank) for rank in range(world_size)]
        assert [len(part) for part in parts] == [8 // world_size] * world_size
        assert (np.concatenate(parts) == order[step * 8 : step * 8 + 8]).all()


@pytest.mark.parametrize("world_size", [1, 3])
def test_evaluation_sees_every_sample_once(world_size):
    order = epoch_order(50, 0, 0, shuffle=False)
    steps = steps_per_epoch(50, 12, drop_last=False)
    seen = [batch_ids(order, step, 12, world_size, rank) for step in range(steps) for rank in range(world_size)]
    assert np.concatenate(seen).tolist() == list(range(50))


def test_batch_that_cannot_be_shared_names_one_that_can():
    with pytest.raises(UserError, match="use 9"):
        local_batch_size(10, 3)


SIZES = np.random.default_rng(0).integers(1, 2000, 500)


@pytest.mark.parametrize("window", [1, 3])
def test_block_order_mixes_within_windows_of_whole_blocks(window):
    order = BlockShuffle(SIZES, block_bytes=10_000, window_bytes=window * 10_000)
    first, again, second = (order.epoch(1, epoch) for epoch in (0, 0, 1))
    assert sorted(first) == list(range(500)) == sorted(second)
    assert (first == again).all() and (first != second).any()
    reads = order.reads(1, 0)
    assert sum(last - first for read in reads for first, last in read.ranges) == 500
    start = 0
    for number, read in enumerate(reads):
        within = np.concatenate([np.arange(*span) for span in read.ranges])
        used = first[start : read.until]
        assert sorted(used) == sorted(within) and len(read.ranges) <= window
        assert (used != np.sort(used)).any()  # shuffled inside
        assert read.at == (0 if number < 1 else (reads[number - 2].until if number > 1 else 0))
        for low, high in read.ranges:  # neighbours on disk, about a block of them
            assert SIZES[low:high].sum() <= 10_000 + 2000
        start = read.until


def test_block_order_of_a_small_file_is_one_window():
    order = BlockShuffle(np.full(10, 5), block_bytes=1 << 20, window_bytes=1 << 30)
    assert sorted(order.epoch(0, 0)) == list(range(10)) and len(order.reads(0, 0)) == 1


def test_balanced_batches_hold_whole_groups_of_a_class():
    labels = np.repeat(np.arange(6), [40, 9, 8, 3, 25, 8])
    order = ClassBalanced(labels, per_class=4)
    assert len(order) == 4 * (10 + 3 + 2 + 1 + 7 + 2)
    ids = order.epoch(0, 0)
    assert set(ids) == set(range(len(labels)))  # everything comes at least once
    groups = labels[ids].reshape(-1, 4)
    assert (groups == groups[:, :1]).all()
    whole = ids.reshape(-1, 4)[labels[ids].reshape(-1, 4)[:, 0] == 0]
    assert len(np.unique(whole)) == 40  # no image twice where groups come out even
    assert all(len(set(group)) == 4 for group in ids.reshape(-1, 4)[groups[:, 0] != 3])
    assert (order.epoch(0, 0) == ids).all() and (order.epoch(0, 1) != ids).any() and (order.epoch(1, 0) != ids).any()


def test_balanced_order_spreads_each_class_over_the_epoch():
    labels = np.repeat(np.arange(10), 100)
    order = ClassBalanced(labels, per_class=2)
    batches = labels[order.epoch(0, 0)].reshape(-1, 20)
    distinct = [len(set(batch)) for batch in batches]
    assert np.mean(distinct) > 8.5  # 20 images of 10 classes in pairs: nearly all of them in every batch
    shuffled = labels[epoch_order(1000, 0, 0)].reshape(-1, 20)
    alone = [(np.bincount(batch) == 1).sum() for batch in shuffled]
    assert np.mean(alone) > 1 and not any((np.bincount(batch) % 2).any() for batch in batches)


def test_bound_batches_end_with_one_fixed_image_of_every_class():
    labels = np.repeat(np.arange(4), [50, 30, 2, 1])
    order = Bound(labels, global_batch=13)
    assert len(order) == 8 * 13  # 79 others, nine a batch
    for epoch in range(2):
        batches = order.epoch(0, epoch).reshape(-1, 13)
        assert (batches[:, 9:] == [0, 50, 80, 82]).all()
        others = batches[:, :9].reshape(-1)
        assert len(set(others)) == len(others) and not set(others) & {0, 50, 80, 82}
    assert (order.epoch(0, 0) != order.epoch(0, 1)).any() and (order.epoch(0, 0) == order.epoch(0, 0)).all()


@pytest.mark.parametrize("batch", [4, 100])
def test_bound_batches_that_cannot_be(batch):
    with pytest.raises(UserError, match=rf"--sampling.bind gives 4 places .* --train.global-batch of {batch}"):
        Bound(np.repeat(np.arange(4), 20), batch)
