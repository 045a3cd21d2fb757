"""The losses of the family shared by several processes."""

from pathlib import Path


def test_value_and_gradient_are_those_of_one_process(run_python):
    """For groups of two and of four."""
    done = run_python(Path(__file__).with_name("ranks_contrastive.py"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("agrees") == 4
