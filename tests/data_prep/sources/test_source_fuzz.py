"""Every kind of source on damaged data sets: a UserError or images. More of the same: benchmarks/fuzz_sources.py."""

import sys
from pathlib import Path

import pytest

pytest.importorskip("pyarrow")


@pytest.fixture(scope="module")
def fuzz_sources():
    sys.path.insert(0, str(Path(__file__).parents[3] / "benchmarks"))
    import fuzz_sources

    yield fuzz_sources
    sys.path.pop(0)


def test_every_seed_is_whole(fuzz_sources, tmp_path):
    for name, dataset in fuzz_sources.make_seeds().items():
        (tmp_path / name).mkdir()
        assert fuzz_sources.read_source(dataset, tmp_path / name) == "opened", name


def test_hundreds_of_mutants(fuzz_sources, tmp_path):
    mutants = fuzz_sources.SourceMutants(seed=2)
    outcomes = []
    for number in range(400):
        (tmp_path / str(number)).mkdir()
        outcomes.append(fuzz_sources.read_source(mutants[number], tmp_path / str(number)))
    assert outcomes.count("opened") > 30 and outcomes.count("refused") > 200
