from pathlib import Path


def test_two_processes_normalise_like_one(run_ranks):
    assert run_ranks(2, Path(__file__).with_name("ranks_batch_norm.py")).count("agrees") == 2
