"""The compiled CPU code: a second process compiles nothing, and one setting of threads governs torch and numba."""

import os

import numba
import numpy as np
import pytest
import torch
from numba.core import event

from fastvarcon.data.augment import POLICIES, view_params
from fastvarcon.data.batch import ImageBatch
from fastvarcon.kernels import numba_cache, views_cpu

SECOND = """
import sys
from numba.core import event
compiled = event.RecordingListener()
event.register("numba:compile", compiled)
import test_views_start
test_views_start.make_views()
print(len(compiled.buffer), *map(test_views_start.cache_use, test_views_start.kernels()))
"""

ON_ONE_CORE = """
import os, threading
os.sched_setaffinity(0, list(os.sched_getaffinity(0))[:1])
import test_views_start
thread = threading.Thread(target=test_views_start.make_views)
thread.start(), thread.join()
print("made")
"""


def kernels():
    from fastvarcon.data import draws

    return draws.draw, views_cpu._all_views


def cache_use(kernel) -> str:
    return f"{sum(kernel.stats.cache_hits.values())}/{sum(kernel.stats.cache_misses.values())}"


def make_views() -> None:
    """By every policy, to every dtype, with every interpolation."""
    batch = ImageBatch.from_images([np.zeros((9, 9, 3), np.uint8)] * 4, np.zeros(4), np.arange(4))
    sizes = {"heights": batch.height.numpy(), "widths": batch.width.numpy()}
    for policy in POLICIES:
        table = view_params(policy, 0, 0, batch.ids.numpy(), 0, **sizes)
        for dtype in (torch.float32, torch.bfloat16, torch.float16):
            for interpolation in ("bilinear", "bicubic"):
                options = {"size": 8, "mean": (0.5,) * 3, "std": (0.5,) * 3}
                views_cpu.views(batch, table, **options, dtype=dtype, interpolation=interpolation)


def test_second_process_compiles_nothing(run_python, request):
    make_views()
    done = run_python("-c", SECOND, PYTHONPATH=f"{request.path.parent}:{request.config.rootpath}")
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["0", "1/0", "1/0"], "compilations, then hits and misses of the cache"
    assert "compiling" not in done.stderr


def test_what_takes_long_is_announced(capsys):
    """By an event of numba's, which comes before a compilation and not before a load from the cache."""
    for dispatcher in (views_cpu._all_views, views_cpu._tile):
        with event.trigger_event("numba:compile", data={"dispatcher": dispatcher}):
            pass
    assert capsys.readouterr().err == "compiling the view kernel for this CPU: once, up to a minute\n"


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system does not choose cores")
def test_process_ends_on_one_core(run_python, request):
    """After views from a thread that is gone, as the loader's is, numba waited for its TBB pool for ever."""
    done = run_python("-c", ON_ONE_CORE, PYTHONPATH=f"{request.path.parent}:{request.config.rootpath}", timeout=120)
    assert done.returncode == 0 and done.stdout == "made\n", done.stderr


def test_kernel_takes_no_other_specialisation_than_the_cached_one():
    make_views()
    assert [len(kernel.signatures) for kernel in kernels()] == [1, 1]


def test_cache_heeds_the_other_files(monkeypatch):
    """The name of the cache files changes with the sources that the kernel is compiled from."""

    def named(source: str) -> str:
        monkeypatch.setattr(numba_cache.inspect, "getsource", lambda module: source)

        @numba_cache.depends_on(views_cpu)
        def kernel():
            pass

        return kernel.__qualname__

    assert named("one") == named("one") != named("two")
    assert views_cpu._all_views.py_func.__qualname__.startswith("_all_views_")


@pytest.mark.parametrize("threads", [1, 2])
def test_numba_takes_the_threads_of_torch(monkeypatch, threads):
    """Checked where the kernel runs: numba's own setting is another one for each thread that calls it."""
    if threads > numba.config.NUMBA_NUM_THREADS:
        pytest.skip(f"numba may use {numba.config.NUMBA_NUM_THREADS} threads here")
    seen = []
    monkeypatch.setattr(views_cpu, "_all_views", lambda *_: seen.append(numba.get_num_threads()))
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        numba.set_num_threads(1)
        make_views()
    finally:
        torch.set_num_threads(before)
    assert set(seen) == {threads}
