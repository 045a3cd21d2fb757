"""The bench's referee: fair turns, failures named, nothing left running."""

import itertools
import multiprocessing
import os
import time

from fastvarcon.bench.rounds import Measured, cpu_seconds, measure


def steady(job):
    while True:
        time.sleep(0.01)
        yield job


def busy_behind_the_back(folder):
    """Works on in a process of its own, whoever's turn it is, as a prefetching loader does."""
    worker = multiprocessing.get_context("fork").Process(target=_count, args=(folder,), daemon=True)
    worker.start()
    for _ in itertools.count():
        time.sleep(0.01)
        yield 1


def _count(folder):
    with open(folder / "ticks", "ab", buffering=0) as ticks:
        while True:
            ticks.write(b"x")
            time.sleep(0.005)


def slow_after(folder):
    """Notes how far the other one came while it was this one's turn."""
    yield 1
    for _ in itertools.count():
        before = (folder / "ticks").stat().st_size
        time.sleep(0.2)
        with open(folder / "seen", "a") as seen:
            print(before, (folder / "ticks").stat().st_size, file=seen)
        yield 1


def broken(job):
    raise ValueError("no such format")
    yield 0


def dies(job):
    os._exit(3)
    yield 0


def test_rates_and_failures():
    results = measure({"steady": steady, "broken": broken, "dies": dies}, 8, rounds=3, seconds=0.2)
    assert len(results["steady"].per_second) == 3 and 0 < results["steady"].median <= 800
    assert results["steady"].cpu < 1000 / 8 * 0.01
    assert results["broken"].failure == "no such format" and results["dies"].failure == "its process died"
    assert not multiprocessing.active_children()


def test_nobody_works_in_the_turn_of_another(tmp_path):
    measure({"busy": busy_behind_the_back, "slow": slow_after}, tmp_path, rounds=2, seconds=0.3)
    pairs = [line.split() for line in (tmp_path / "seen").read_text().splitlines()]
    assert len(pairs) > 2 and all(before == after for before, after in pairs)


def test_cpu_time_includes_workers():
    before, context = cpu_seconds(), multiprocessing.get_context("fork")
    burnt = context.Event()
    worker = context.Process(target=_burn, args=(burnt,), daemon=True)
    worker.start()
    assert burnt.wait(60)
    assert cpu_seconds() - before > 0.3
    worker.kill()
    worker.join()


def _burn(burnt):
    while time.process_time() < 0.4:
        pass
    burnt.set()
    time.sleep(60)


def test_median_of_rounds():
    assert Measured([1.0, 9.0, 2.0], [3.0, 1.0, 2.0]).median == 2.0
