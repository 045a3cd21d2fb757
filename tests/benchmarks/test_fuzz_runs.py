"""Damaged run folders and weights: a page, an encoder or a UserError. More of the same: benchmarks/fuzz_runs.py."""

import shutil
import sys
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def fuzzing():
    sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
    import fuzz_reader
    import fuzz_runs

    yield fuzz_reader, fuzz_runs
    sys.path.pop(0)


def test_whole_ones_are_opened_and_mutants_raise_nothing_else(fuzzing, tmp_path):
    fuzz_reader, fuzz_runs = fuzzing
    mutants, outcomes = fuzz_runs.Mutants(1), []
    whole = [*fuzz_runs.make_runs().values(), *fuzz_runs.make_weights().values()]
    for dataset in [*whole, *(mutants[number] for number in range(40))]:
        (tmp_path / "run").mkdir()
        outcomes.append(fuzz_runs.read_back(fuzz_reader.store(dataset, tmp_path / "run")))
        shutil.rmtree(tmp_path / "run")
    assert set(outcomes[: len(whole)]) == {"opened"} and set(outcomes) == {"opened", "refused"}
