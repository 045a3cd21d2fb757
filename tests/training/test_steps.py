from pathlib import Path

import pytest


@pytest.mark.parametrize("world_size", [2, 4])
def test_steps_of_several_processes_are_those_of_one(run_ranks, world_size):
    assert run_ranks(world_size, Path(__file__).with_name("ranks_steps.py")).count("agrees") == world_size
