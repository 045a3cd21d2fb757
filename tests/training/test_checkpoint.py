import errno
import json
import os
import shutil
import subprocess
import threading

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from fastvarcon.errors import UserError
from fastvarcon.run_folder import CHECKPOINT_FILE as FILE
from fastvarcon.run_folder import RunFolder
from fastvarcon.training import checkpoint
from fastvarcon.training.checkpoint import load_checkpoint, load_newest, snapshot, write_checkpoint
from fastvarcon.training.saver import Saver

STATE = {
    "epoch": 3,
    "figures": {"loss": 0.1 + 0.2, "none": None},
    "model": {"encoder.weight": torch.randn(3, 4).double(), "b": torch.tensor(True), "h": torch.ones(2).bfloat16()},
    "optimizer": {
        "state": {0: {"momentum_buffer": torch.arange(4)}, 7: {}},
        "param_groups": [{"lr": 0.1, "params": [0, 7]}],
    },
}


def write(folder, state=STATE, run="run", **more) -> None:
    write_checkpoint(folder, snapshot(state), run, **more)


@pytest.fixture
def folder(tmp_path) -> RunFolder:
    return RunFolder(tmp_path)


def test_round_trip_keeps_types_and_every_bit(tmp_path):
    write(tmp_path / "last")
    state = load_checkpoint(tmp_path / "last", "run")
    assert state["figures"] == STATE["figures"] and state["epoch"] == 3
    assert state["optimizer"]["param_groups"] == STATE["optimizer"]["param_groups"]
    assert list(state["optimizer"]["state"]) == [0, 7]  # integer keys stay integers
    assert torch.equal(state["optimizer"]["state"][0]["momentum_buffer"], torch.arange(4))
    for name, tensor in STATE["model"].items():
        assert torch.equal(state["model"][name], tensor) and state["model"][name].dtype == tensor.dtype


def test_optimizer_state_survives(tmp_path):
    model = torch.nn.Linear(3, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    model(torch.randn(4, 3)).sum().backward()
    optimizer.step()
    write(tmp_path, {"optimizer": optimizer.state_dict()})
    fresh = torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.9)
    fresh.load_state_dict(load_checkpoint(tmp_path, "run")["optimizer"])
    for one, other in zip(fresh.state.values(), optimizer.state.values(), strict=True):
        assert torch.equal(one["momentum_buffer"], other["momentum_buffer"])


def test_snapshot_is_of_its_moment():
    weight = torch.ones(3)
    content = snapshot({"weight": weight})
    weight += 1
    assert torch.equal(content.tensors["/weight"], torch.ones(3))
    again = snapshot({"weight": weight}, content.tensors)
    assert torch.equal(again.tensors["/weight"], weight) and again.tensors["/weight"] is content.tensors["/weight"]
    assert snapshot({"weight": torch.ones(2)}, content.tensors).tensors["/weight"].shape == (2,)


def test_nothing_is_pickled(tmp_path):
    write(tmp_path)
    with safe_open(tmp_path / FILE, framework="pt") as file:
        json.loads(file.metadata()["state"])
    assert os.listdir(tmp_path) == [FILE]


def test_torn_checkpoint_is_an_error_that_names_it(tmp_path):
    write(tmp_path)
    whole = (tmp_path / FILE).read_bytes()
    for cut in (0, 5, 100, len(whole) - 1):
        (tmp_path / FILE).write_bytes(whole[:cut])
        with pytest.raises(UserError, match="not a whole checkpoint"):
            load_checkpoint(tmp_path, "run")


def test_every_changed_byte_is_noticed(tmp_path):
    write(tmp_path)
    whole = (tmp_path / FILE).read_bytes()
    for at in range(8, len(whole)):
        (tmp_path / FILE).write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        try:
            state = load_checkpoint(tmp_path, "run")
        except UserError:
            continue
        assert json.dumps(state, default=str) == json.dumps(STATE, default=str)  # white space behind the header


def test_foreign_files_are_refused(tmp_path):
    save_file({"a": torch.ones(2)}, tmp_path / FILE)
    with pytest.raises(UserError, match="not a whole checkpoint"):
        load_checkpoint(tmp_path, "run")
    write(tmp_path, run="another")
    with pytest.raises(UserError, match="belongs to a run of other settings"):
        load_checkpoint(tmp_path, "run")
    assert load_checkpoint(tmp_path)["epoch"] == 3


def test_previous_one_is_used_with_a_warning(folder):
    for epoch in (1, 2, 3):
        write(folder.last, {**STATE, "epoch": epoch}, previous=folder.previous)
        write(folder.kept(epoch), {**STATE, "epoch": epoch})
    warnings = []
    assert load_newest(folder, "run", warnings.append)["epoch"] == 3 and not warnings
    (folder.last / FILE).write_bytes(b"torn")
    assert load_newest(folder, "run", warnings.append)["epoch"] == 2 and "last" in warnings[0]
    write(folder.previous, run="another")
    assert load_newest(folder, "run", warnings.append)["epoch"] == 3 and "other settings" in warnings[-1]
    for epoch in (1, 2, 3):
        (folder.kept(epoch) / FILE).write_bytes(b"torn")
    with pytest.raises(UserError, match="epoch-001"):
        load_newest(folder, "run", warnings.append)
    shutil.rmtree(folder.path / "checkpoints")
    assert not folder.resumable


def saver_of(folder: RunFolder, keep: int = 0) -> tuple[Saver, list[str]]:
    warnings: list[str] = []
    return Saver(folder, "run", keep, warnings.append), warnings


def test_saver_writes_last_previous_encoder_and_the_newest_kept(folder):
    saver, warnings = saver_of(folder, keep=2)
    for epoch in range(1, 5):
        saver.save({**STATE, "epoch": epoch}, encoder="/model/encoder.", kept_epoch=epoch)
    saver.finish()
    assert not warnings and not saver.busy
    assert load_checkpoint(folder.last, "run")["epoch"] == 4
    assert load_checkpoint(folder.previous, "run")["epoch"] == 3
    names = ["epoch-003", "epoch-004", "last", "previous"]
    assert sorted(path.name for path in folder.last.parent.iterdir()) == names
    assert torch.equal(load_file(folder.encoder)["weight"], STATE["model"]["encoder.weight"])
    assert "fastvarcon-saver" not in {thread.name for thread in threading.enumerate()}


def test_failed_save_keeps_the_last_good_checkpoint_and_is_reported(folder, monkeypatch):
    saver, warnings = saver_of(folder)
    saver.save({**STATE, "epoch": 1})
    saver.finish()

    def fail(tensors, path, metadata=None):
        path.write_bytes(b"the first part")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save_file", fail)
        saver.save({**STATE, "epoch": 2})
        saver.save({**STATE, "epoch": 3})
        assert "No space left on device" in warnings[0] and "training goes on" in warnings[0]
        with pytest.raises(UserError, match="No space left on device"):
            saver.finish()
    assert load_checkpoint(folder.last, "run")["epoch"] == 1 and not list(folder.path.rglob("*.partial"))
    saver.save({**STATE, "epoch": 4})
    saver.finish()
    assert load_checkpoint(folder.last, "run")["epoch"] == 4


@pytest.mark.parametrize("when", ["before the resume", "under the run"])
def test_a_damaged_last_does_not_displace_the_good_previous(folder, when):
    saver, _ = saver_of(folder)
    for epoch in (1, 2):
        saver.save({**STATE, "epoch": epoch})
    saver.finish()
    whole = (folder.last / FILE).read_bytes()
    (folder.last / FILE).write_bytes(whole[:-9] + b"x" + whole[-8:])
    warnings: list[str] = []
    assert load_newest(folder, "run", warnings.append)["epoch"] == 1 and len(warnings) == 1
    if when == "before the resume":
        saver, _ = saver_of(folder)
    saver.save({**STATE, "epoch": 3})
    saver.finish()
    assert load_checkpoint(folder.last, "run")["epoch"] == 3 and load_checkpoint(folder.previous, "run")["epoch"] == 1
    saver.save({**STATE, "epoch": 4})
    saver.finish()
    assert load_checkpoint(folder.previous, "run")["epoch"] == 3


def test_an_intact_last_is_not_read_again(folder, monkeypatch):
    saver, _ = saver_of(folder)
    saver.save({**STATE, "epoch": 1})
    saver.finish()
    resumed = Saver(folder, "run", 0, print, last_is_good=True)
    monkeypatch.setattr("fastvarcon.training.saver.load_checkpoint", None)
    for epoch in (2, 3):
        resumed.save({**STATE, "epoch": epoch})
    resumed.finish()
    assert load_checkpoint(folder.previous, "run")["epoch"] == 2


def test_mistakes_of_the_writer_itself_are_not_taken_for_a_full_disk(folder):
    saver, _ = saver_of(folder)
    folder.path = folder.last = None
    saver.save(STATE)
    with pytest.raises(TypeError):
        saver.finish()


def test_real_full_disk(tmp_path):
    """On a file system of 256 KB: the checkpoint that fits stays, the one that does not leaves nothing behind."""
    mount = tmp_path / "small"
    mount.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(mount)], capture_output=True)
    if done.returncode:
        pytest.skip("mounting a small file system needs rights that this user lacks")
    try:
        folder = RunFolder(mount / "run")
        saver, warnings = saver_of(folder)
        saver.save({**STATE, "epoch": 1})
        saver.save({**STATE, "epoch": 2, "big": torch.zeros(1 << 20)})
        saver.save({**STATE, "epoch": 3})
        assert len(warnings) == 1 and "training goes on" in warnings[0]
        saver.finish()
        assert load_checkpoint(folder.last, "run")["epoch"] == 3
        assert load_checkpoint(folder.previous, "run")["epoch"] == 1
        saver.save({**STATE, "big": torch.zeros(1 << 20)})
        with pytest.raises(UserError, match="free some space and run the same command again"):
            saver.finish()
        assert load_checkpoint(folder.last, "run")["epoch"] == 3
        assert not list(mount.rglob("*.partial"))
    finally:
        subprocess.run(["umount", str(mount)], check=True)
