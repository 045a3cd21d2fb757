"""Which configuration may go on in which run folder."""

import json

import pytest

from fastvarcon.config import Config, TrainConfig
from fastvarcon.errors import UserError
from fastvarcon.run_folder import CHECKPOINT_FILE, RunFolder, run_identity


@pytest.fixture
def folder(tmp_path):
    folder = RunFolder(tmp_path / "run")
    folder.last.mkdir(parents=True)
    (folder.last / CHECKPOINT_FILE).touch()
    return folder


def test_a_setting_that_came_later_had_its_default(folder):
    """A run of an earlier version is not refused for a setting that it could not name."""
    before = Config().flat()
    del before["loss.leave_one_out"]
    folder.config.write_text(json.dumps(before))
    folder.check(Config())
    with pytest.raises(UserError, match=r"another configuration: train\.lr \(0\.5 -> 0\.1\)\. Give a new folder"):
        folder.check(Config(train=TrainConfig(lr=0.1)))


def test_checkpoints_of_an_earlier_version_are_still_of_this_run(monkeypatch):
    mine, flat = Config(train=TrainConfig(lr=0.1)), Config.flat
    now = run_identity(mine)
    assert now != run_identity(Config()) and now == run_identity(Config(train=TrainConfig(lr=0.1, keep=1)))
    monkeypatch.setattr(Config, "flat", lambda self: {k: v for k, v in flat(self).items() if k != "loss.leave_one_out"})
    assert run_identity(mine) == now
