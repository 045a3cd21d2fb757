"""The stream of batches: reproducible, resumable, the same for every world size, and clean when left early."""

import gc
import threading
from itertools import islice

import numpy as np
import pytest
import torch

from fastvarcon.data.backends import open_backend
from fastvarcon.data.loader import Loader, ViewSpec
from fastvarcon.errors import UserError

SPEC = ViewSpec(size=12, mean=(0.5,) * 3, std=(0.25,) * 3, policy="simaugment")
EVAL = ViewSpec(size=12, mean=(0.5,) * 3, std=(0.25,) * 3, policy=None, num_views=1, resize=14)


@pytest.fixture
def backend(image_folder):
    backend = open_backend("folder", image_folder, 2)
    yield backend
    backend.close()


def epoch(loader: Loader) -> list[tuple[torch.Tensor, ...]]:
    with loader:
        return list(loader)


def same(one, other) -> bool:
    return len(one) == len(other) and all(
        torch.equal(a, b) for x, y in zip(one, other, strict=True) for a, b in zip(x, y, strict=True)
    )


def test_shapes_and_order(backend):
    batches = epoch(Loader(backend, SPEC, global_batch=4))
    assert len(batches) == 3  # 15 images, last 3 dropped
    for views, labels, ids in batches:
        assert views.shape == (8, 3, 12, 12) and views.is_contiguous(memory_format=torch.channels_last)
        assert labels.tolist() == backend.labels[ids.numpy()].tolist()
    assert len({int(i) for _, _, ids in batches for i in ids}) == 12


def test_same_seed_same_stream_whatever_the_threads(backend, image_folder):
    other = open_backend("folder", image_folder, 1)
    assert same(epoch(Loader(backend, SPEC, global_batch=4)), epoch(Loader(other, SPEC, global_batch=4, prefetch=5)))
    assert not same(epoch(Loader(backend, SPEC, global_batch=4)), epoch(Loader(other, SPEC, global_batch=4, seed=1)))
    other.close()


def test_ranks_together_are_the_single_process(backend):
    whole = epoch(Loader(backend, SPEC, global_batch=4))
    parts = [epoch(Loader(backend, SPEC, global_batch=4, rank=rank, world_size=2)) for rank in range(2)]
    for (views, labels, ids), first, second in zip(whole, *parts, strict=True):
        assert torch.equal(ids, torch.cat([first[2], second[2]])) and torch.equal(
            labels, torch.cat([first[1], second[1]])
        )
        view_major = torch.cat([part[0].view(2, 2, 3, 12, 12) for part in (first, second)], 1).flatten(0, 1)
        assert torch.equal(views, view_major)


def test_resume_mid_epoch_gives_exactly_the_next_batch(backend):
    loader = Loader(backend, SPEC, global_batch=4)
    loader.set_epoch(3)
    stream = iter(loader)
    first = [next(stream)]
    state = loader.state_dict()
    rest = list(stream)
    resumed = Loader(backend, SPEC, global_batch=4)
    resumed.load_state_dict(state)
    assert len(first) == 1 and same(rest, epoch(resumed))


def test_next_iteration_is_the_next_epoch(backend):
    loader = Loader(backend, SPEC, global_batch=4)
    first, second = list(loader), list(loader)
    assert not same(first, second)
    again = Loader(backend, SPEC, global_batch=4)
    again.set_epoch(1)
    assert same(second, epoch(again))


def test_evaluation_delivers_every_image_once_in_order(backend):
    batches = epoch(Loader(backend, EVAL, global_batch=4, train=False))
    assert torch.cat([ids for _, _, ids in batches]).tolist() == list(range(15))
    assert [len(views) for views, _, _ in batches] == [4, 4, 4, 3]


def test_subset(backend):
    batches = epoch(Loader(backend, EVAL, global_batch=4, train=False, subset=np.array([2, 9, 11])))
    assert batches[0][2].tolist() == [2, 9, 11]


def loader_threads() -> int:
    return sum(thread.name == "fastvarcon-loader" for thread in threading.enumerate())


def test_leaving_early_leaks_no_thread(backend):
    before = loader_threads()
    for _ in range(5):
        with Loader(backend, SPEC, global_batch=2) as loader:
            for _ in islice(loader, 1):
                pass
    loader.close(), loader.close()
    assert loader_threads() == before


def test_broken_image_arrives_as_an_error_and_ends_the_thread(backend, image_folder):
    (image_folder / "bee" / "0.jpg").write_bytes(b"not an image")
    before = loader_threads()
    loader = Loader(backend, EVAL, global_batch=4, train=False)
    with pytest.raises(UserError, match=r"bee/0\.jpg"):
        list(loader)
    assert loader_threads() == before


def test_batch_larger_than_the_dataset(backend):
    with pytest.raises(UserError, match="larger than the dataset of 15"):
        Loader(backend, SPEC, global_batch=16)


@pytest.mark.gpu
def test_gpu_stream_equals_cpu_stream(backend):
    torch.backends.cuda.matmul.allow_tf32 = False
    for cpu, gpu in zip(
        epoch(Loader(backend, SPEC, global_batch=4)),
        epoch(Loader(backend, SPEC, global_batch=4, device="cuda")),
        strict=True,
    ):
        assert gpu[0].is_cuda and torch.equal(cpu[2], gpu[2].cpu())
        assert (cpu[0] - gpu[0].cpu()).abs().max() < 1e-3


def test_abandoned_iteration_ends_its_thread(backend):
    before = loader_threads()
    loader = Loader(backend, SPEC, global_batch=2)
    for _ in loader:
        break
    gc.collect()
    assert loader_threads() == before


@pytest.mark.parametrize("end", ["close", "set_epoch", "iter"])
def test_iteration_that_was_ended_says_so_and_does_not_hang(backend, end):
    loader = Loader(backend, SPEC, global_batch=2)
    stream = iter(loader)
    next(stream)
    {"close": loader.close, "set_epoch": lambda: loader.set_epoch(1), "iter": lambda: next(iter(loader))}[end]()
    with pytest.raises(RuntimeError, match="closed or iterated anew"):
        list(stream)
    loader.close()


def test_interpreter_can_end_in_mid_iteration(run_python, image_folder):
    code = (
        "import sys; from fastvarcon.data.backends import open_backend; from fastvarcon.data.loader import *\n"
        "spec = ViewSpec(size=64, mean=(0.5,) * 3, std=(0.2,) * 3)\n"
        "stream = iter(Loader(open_backend('folder', sys.argv[1], 2), spec, global_batch=2, prefetch=1)); next(stream)"
    )
    for _ in range(3):
        done = run_python("-c", code, image_folder)
        assert done.returncode == 0, done.stderr


def test_more_ranks_than_images_in_the_last_batch(backend):
    """15 images in batches of 4 over 4 ranks: the last batch leaves one rank without an image."""
    seen = []
    for rank in range(4):
        for views, _, ids in epoch(Loader(backend, EVAL, global_batch=4, train=False, rank=rank, world_size=4)):
            assert len(views) == len(ids)
            seen += ids.tolist()
    assert sorted(seen) == list(range(15))


def test_batch_of_nothing(backend):
    with pytest.raises(UserError, match="at least 1 image"):
        Loader(backend, SPEC, global_batch=0)
