"""What the loss learns and carries from step to step: optimised, saved and restored with the run."""

import shutil

import pytest
import torch

from fastvarcon.losses import VarConLoss
from fastvarcon.training.checkpoint import load_checkpoint
from fastvarcon.training.optim import CRITERION_LR, add_criterion, set_learning_rate


def test_eps_is_learnt_slowly_and_without_weight_decay():
    weights, criterion = torch.nn.Linear(2, 2), VarConLoss(3, learn_eps=True)
    optimizer = torch.optim.SGD(weights.parameters(), lr=0.1, weight_decay=0.5)
    add_criterion(optimizer, VarConLoss(3))
    assert len(optimizer.param_groups) == 1
    add_criterion(optimizer, criterion)
    set_learning_rate(optimizer, 2.0)
    criterion.eps.grad = torch.tensor(1.0)
    optimizer.step()
    assert criterion.eps.item() == pytest.approx(0.02 - 2.0 * CRITERION_LR)


def test_a_resumed_run_learns_on_where_it_was(call, digits, tmp_path):
    def train(out) -> dict:
        flags = (
            "--train.epochs 2 --train.save-every 1 --train.val-every 0 --train.global-batch 256 "
            "--train.warmup-epochs 0 --train.device cpu --train.threads 1 --model.width 0.125 "
            "--data.size 8 --data.eval-resize 8 --loss.learn-eps --loss.prototype-momentum 0.5"
        )
        files = ("--data.train", digits[0], "--data.val", digits[1], "--out", out)
        done = call("recipes/digits.py", *files, *flags.split())
        assert done.returncode == 0, done.stdout + done.stderr
        return load_checkpoint(out / "checkpoints" / "last")

    whole = train(tmp_path / "whole")
    shutil.copytree(tmp_path / "whole", tmp_path / "resumed")
    shutil.rmtree(tmp_path / "resumed" / "checkpoints" / "last")
    (tmp_path / "resumed" / "checkpoints" / "epoch-001").rename(tmp_path / "resumed" / "checkpoints" / "last")
    resumed = train(tmp_path / "resumed")
    assert whole["criterion"]["eps"] != 0.02 and whole["criterion"]["prototypes.seen"].all()
    for name, value in whole["criterion"].items():
        assert torch.equal(resumed["criterion"][name], value), name
