"""The losses of the family shared by several processes."""

from pathlib import Path


def test_value_and_gradient_are_those_of_one_process(run_ranks):
    """For groups of two and of four."""
    output = run_ranks(4, Path(__file__).with_name("ranks_contrastive.py"))
    assert output.count("agrees") == 4
