"""The stream of batches: reproducible, resumable, the same for every world size, and clean when left early."""

import contextlib
import dataclasses
import gc
import subprocess
import sys
import threading
import time
from itertools import islice
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from fastvarcon.data.augment import POLICIES
from fastvarcon.data.backends import open_backend
from fastvarcon.data.loader import Loader, ViewSpec
from fastvarcon.data.sampling import BlockShuffle
from fastvarcon.data_prep.convert import convert
from fastvarcon.data_prep.encode import EncodeSettings
from fastvarcon.data_prep.sources import open_source
from fastvarcon.errors import UserError

SPEC = ViewSpec(size=12, mean=(0.5,) * 3, std=(0.25,) * 3, policy="simaugment")
EVAL = ViewSpec(size=12, mean=(0.5,) * 3, std=(0.25,) * 3, policy="eval", num_views=1, resize=14)


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


def test_every_policy_and_interpolation_by_name(backend):
    def first(**options) -> torch.Tensor:
        return epoch(Loader(backend, dataclasses.replace(SPEC, **options), global_batch=15))[0][0]

    for policy in (*POLICIES, "eval"):
        assert first(policy=policy).isfinite().all(), policy
    views = first(policy="eval")
    assert torch.equal(views[:15], views[15:]), "nothing of evaluation is random"
    assert not torch.equal(first(interpolation="bicubic"), first())


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


def test_thread_of_a_gpu_loader_stays_on_its_gpu(backend, monkeypatch):
    """A thread begins on GPU 0. To leave a stream of GPU 3 there would take memory of GPU 0, in every process."""
    chosen = []
    monkeypatch.setattr(torch.cuda, "set_device", lambda gpu: chosen.append((threading.current_thread().name, gpu)))
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: contextlib.nullcontext())
    with Loader(backend, SPEC, global_batch=4) as loader:
        loader._stream = SimpleNamespace(device=torch.device("cuda", 3))
        monkeypatch.setattr(loader, "_make_views", lambda *arguments, **options: (torch.zeros(1), None, None, None))
        assert len(list(loader)) == 3
    assert chosen == [("fastvarcon-loader", torch.device("cuda", 3))]


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


def test_queue_is_kept_from_one_epoch_to_the_next(backend):
    apart = Loader(backend, SPEC, global_batch=4)
    expected = [list(apart) for _ in range(3)]
    with Loader(backend, SPEC, global_batch=4, epochs=3) as loader:
        got, threads = [], set()
        for number in range(3):
            loader.set_epoch(number)
            got.append(list(loader))
            threads.add(loader._producer)
    assert all(same(a, b) for a, b in zip(got, expected, strict=True))
    assert len(threads - {None}) == 1 and None in threads  # one thread for all epochs, none behind the last


def test_jump_to_another_epoch_drops_what_was_prepared(backend):
    with Loader(backend, SPEC, global_batch=4, epochs=5) as loader, Loader(backend, SPEC, global_batch=4) as other:
        list(loader)
        for target in (loader, other):
            target.set_epoch(3)
        assert same(list(loader), list(other))
        assert loader_threads() == 1
    assert loader_threads() == 0


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_padded_evaluation_counts_every_image_once_in_equal_batches(backend, world_size):
    seen, shapes = [], set()
    for rank in range(world_size):
        loader = Loader(backend, EVAL, global_batch=4, train=False, rank=rank, world_size=world_size, pad=True)
        for views, labels, ids in epoch(loader):
            shapes.add(len(views))
            real = ids >= 0
            assert (labels[~real] == -1).all() and (labels[real] == torch.from_numpy(backend.labels)[ids[real]]).all()
            seen += ids[real].tolist()
    assert sorted(seen) == list(range(15)) and shapes == {4 // world_size}


def test_bytes_bound_what_is_prepared(backend):
    fetched = []

    class Spy:
        name, classes, labels = backend.name, backend.classes, backend.labels

        def __len__(self):
            return len(backend)

        def fetch(self, ids, allocate):
            fetched.append(ids)
            return backend.fetch(ids, allocate)

    one_batch = 2 * 2 * 3 * 12 * 12 * 4
    for limit, expected in ((0, 3), (one_batch, 3), (3 * one_batch, 5)):  # one in hand, those queued, one made
        fetched.clear()
        with Loader(Spy(), SPEC, global_batch=2, prefetch=100, prefetch_bytes=limit) as loader:
            stream = iter(loader)
            next(stream)
            settled = None
            while settled != len(fetched):
                settled = len(fetched)
                time.sleep(0.3)
        assert settled == expected


def test_block_order_announces_windows_one_ahead(backend):
    asked = []
    backend.will_need = lambda first, last: asked.append((first, last))
    order = BlockShuffle(np.full(15, 10), block_bytes=20, window_bytes=40)  # blocks of 2, windows of 4 samples
    loader = Loader(backend, EVAL, global_batch=1, train=False, order=order, prefetch=1)
    with loader:
        ids = [int(ids) for _, _, ids in loader]
    assert sorted(ids) == list(range(15)) and sorted(i for span in asked for i in range(*span)) == list(range(15))
    asked.clear()
    loader.load_state_dict({"epoch": 0, "step": 9, "global_batch": 1})  # in the third window of four
    with loader:
        rest = [int(ids) for _, _, ids in loader]
    assert rest == ids[9:]
    assert sorted(i for span in asked for i in range(*span)) == sorted(ids[8:])  # what is past is not read again


def test_host_buffer_is_used_again(backend):
    buffers = []
    fetch = backend.fetch
    backend.fetch = lambda ids, allocate: fetch(ids, lambda n: buffers.append(allocate(n)) or buffers[-1])
    assert len(epoch(Loader(backend, SPEC, global_batch=4))) == 3
    assert len({buffer.data_ptr() for buffer in buffers}) == 1


def test_threads_and_files_are_given_back(file_handles, image_folder, tmp_path):
    out = tmp_path / "a.beton"
    convert(open_source(image_folder), out, EncodeSettings("jpg"), workers=1, on_error="stop")
    threads, files = threading.active_count(), file_handles()
    for _ in range(5):
        backend = open_backend("cpu", out, 2)
        with pytest.raises(KeyError), Loader(backend, SPEC, global_batch=2) as loader:
            for _ in loader:
                raise KeyError
        loader.close(), backend.close(), backend.close()
    assert threading.active_count() == threads and file_handles() == files


STEPS = """
import sys, time
from fastvarcon.data.backends import open_backend
from fastvarcon.data.loader import Loader, ViewSpec
spec = ViewSpec(size=12, mean=(0.5,) * 3, std=(0.25,) * 3)
loader = Loader(open_backend("folder", sys.argv[1], 2), spec, global_batch=2)
loader.load_state_dict({"epoch": 1, "step": int(sys.argv[2]), "global_batch": 2})
for views, labels, ids in loader:
    print(loader.state_dict()["step"], ids.tolist(), views.double().sum().item(), flush=True)
    time.sleep(float(sys.argv[3]))
"""


def test_killed_and_resumed_from_the_last_step(run_python, image_folder):
    whole = run_python("-c", STEPS, image_folder, "0", "0").stdout.splitlines()
    lines, step = [], 0
    while step < 7:
        start = [sys.executable, "-c", STEPS, str(image_folder), str(step), "0.05"]
        with subprocess.Popen(start, stdout=subprocess.PIPE, text=True) as process:
            for _ in range(min(3, 7 - step)):
                lines.append(process.stdout.readline().strip())
            process.kill()
        step = int(lines[-1].split()[0])
    assert lines == whole and len(whole) == 7
