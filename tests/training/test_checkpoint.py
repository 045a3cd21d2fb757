import json
import os

import pytest
import torch
from safetensors import safe_open

from fastvarcon.errors import UserError
from fastvarcon.run_folder import CHECKPOINT_FILE as FILE
from fastvarcon.training.checkpoint import load_checkpoint, save_checkpoint

STATE = {
    "epoch": 3,
    "figures": {"loss": 0.1 + 0.2, "none": None},
    "model": {"a.weight": torch.randn(3, 4).double()},
    "optimizer": {
        "state": {0: {"momentum_buffer": torch.arange(4)}, 7: {}},
        "param_groups": [{"lr": 0.1, "params": [0, 7]}],
    },
}


def test_round_trip_keeps_types_and_every_bit(tmp_path):
    save_checkpoint(tmp_path / "last", STATE)
    state = load_checkpoint(tmp_path / "last")
    assert state["figures"] == STATE["figures"] and state["epoch"] == 3
    assert state["optimizer"]["param_groups"] == STATE["optimizer"]["param_groups"]
    assert list(state["optimizer"]["state"]) == [0, 7]  # integer keys stay integers
    for one, other in (
        (state["model"]["a.weight"], STATE["model"]["a.weight"]),
        (state["optimizer"]["state"][0]["momentum_buffer"], torch.arange(4)),
    ):
        assert torch.equal(one, other) and one.dtype == other.dtype


def test_optimizer_state_survives(tmp_path):
    model = torch.nn.Linear(3, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    model(torch.randn(4, 3)).sum().backward()
    optimizer.step()
    save_checkpoint(tmp_path, {"optimizer": optimizer.state_dict()})
    fresh = torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.9)
    fresh.load_state_dict(load_checkpoint(tmp_path)["optimizer"])
    for one, other in zip(fresh.state.values(), optimizer.state.values(), strict=True):
        assert torch.equal(one["momentum_buffer"], other["momentum_buffer"])


def test_nothing_is_pickled(tmp_path):
    save_checkpoint(tmp_path, STATE)
    with safe_open(tmp_path / FILE, framework="pt") as file:
        json.loads(file.metadata()["state"])
    assert os.listdir(tmp_path) == [FILE]


def test_torn_checkpoint_is_an_error_that_names_it(tmp_path):
    save_checkpoint(tmp_path, STATE)
    whole = (tmp_path / FILE).read_bytes()
    for cut in (0, 5, 100, len(whole) - 1):
        (tmp_path / FILE).write_bytes(whole[:cut])
        with pytest.raises(UserError, match="not a whole checkpoint"):
            load_checkpoint(tmp_path)


def test_failed_save_keeps_the_old_one(tmp_path, monkeypatch):
    save_checkpoint(tmp_path, STATE)
    monkeypatch.setattr(
        "fastvarcon.training.checkpoint.os.fsync", lambda _: (_ for _ in ()).throw(OSError("disk full"))
    )
    with pytest.raises(OSError, match="disk full"):
        save_checkpoint(tmp_path, {**STATE, "epoch": 4})
    assert load_checkpoint(tmp_path)["epoch"] == 3
