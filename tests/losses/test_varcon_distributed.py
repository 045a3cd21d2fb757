from pathlib import Path


def test_value_and_gradient_are_those_of_one_process(run_python):
    done = run_python(Path(__file__).with_name("ranks_varcon.py"), "2", "4", "8")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("agrees") == 2 + 4 + 8
