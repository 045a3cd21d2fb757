from pathlib import Path

import pytest

from fastvarcon.config import TrainConfig
from fastvarcon.errors import UserError
from fastvarcon.training.micro_batch import images_per_pass


def test_gradient_depends_neither_on_processes_nor_on_micro_batches(run_python):
    done = run_python(Path(__file__).with_name("ranks_gradient.py"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("same") == 12


def test_images_of_a_pass():
    assert images_per_pass(TrainConfig(global_batch=64), 4) == 16
    ghost = {"global_batch": 64, "batch_norm": "ghost", "bn_group": 4}
    assert images_per_pass(TrainConfig(**ghost), 4) == 16
    assert images_per_pass(TrainConfig(**ghost, micro_batch=8), 4) == 8


@pytest.mark.parametrize(
    ("micro_batch", "bn_group", "message"),
    [
        (12, 4, "--train.micro-batch 12 does not divide the 16 images .*: use 8"),
        (32, 4, "--train.micro-batch 32 does not divide the 16 images .*: use 16"),
        (8, 3, "--train.bn-group 3 does not divide the 8 images .*: use 2"),
        (0, 32, "--train.bn-group 32 does not divide the 16 images .*: use 16"),
    ],
)
def test_parts_that_do_not_divide_are_refused(micro_batch, bn_group, message):
    train = TrainConfig(global_batch=64, batch_norm="ghost", micro_batch=micro_batch, bn_group=bn_group)
    with pytest.raises(UserError, match=message):
        images_per_pass(train, 4)
