from pathlib import Path

import pytest


@pytest.mark.parametrize("world_size", [2, 4, 8])
def test_value_and_gradient_are_those_of_one_process(run_ranks, world_size):
    output = run_ranks(world_size, Path(__file__).with_name("ranks_varcon.py"))
    assert output.count("agrees") == world_size
