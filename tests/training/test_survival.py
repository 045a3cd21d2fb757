"""Runs that are killed, stopped and moved end as if nothing had happened; survivors.py does it to them."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from fastvarcon.config import Config, DataConfig, ModelConfig, TrainConfig
from fastvarcon.errors import UserError
from fastvarcon.run_folder import CHECKPOINT_FILE, read_metrics
from fastvarcon.training import checkpoint
from fastvarcon.training.trainer import train


@pytest.fixture(scope="module")
def seen(digits, tmp_path_factory) -> dict:
    # numba's work queue and its single thread survive a fork
    env = {"NUMBA_THREADING_LAYER": "workqueue", "NUMBA_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(
        [sys.executable, Path(__file__).with_name("survivors.py"), digits[0], tmp_path_factory.mktemp("survivors")],
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_twenty_kills_at_random_steps_change_nothing(seen):
    assert seen["killed by"] == [-signal.SIGKILL] * 20
    assert seen["resumed within an epoch"] >= 10 and seen["steps when killed"] >= 20
    assert seen["killed is whole"]


def test_signals_save_and_leave_with_a_resume_line(seen):
    assert seen["stopped with"] == [0, 0, 0] and seen["resume lines"] == 3 and seen["steps when stopped"] == 25
    assert seen["stopped is whole"]


def test_signal_to_one_rank_stops_all_and_another_world_size_goes_on_in_the_same_order(seen):
    assert seen["two ranks stopped with"] == [0, 0] and seen["two ranks stopped at"] == 8  # the next row behind step 5
    assert seen["same order on another world size"]


@pytest.fixture
def config(digits, tmp_path):
    def make(**settings) -> Config:
        values = {"epochs": 2, "global_batch": 256, "lr": 0.05, "warmup_epochs": 0.0, "device": "cpu", "log_every": 2}
        values["threads"] = 1
        return Config(
            data=DataConfig(train=digits[0], policy="crop", size=8, eval_resize=8),
            model=ModelConfig("resnet18", width=0.0625, small_images=True, zero_init_residual=True),
            train=TrainConfig(**{**values, **settings}),
            out=tmp_path / "run",
        )

    return make


def test_torn_checkpoint_is_passed_over_with_a_warning(config, capsys):
    train(config(save_every=1))
    last = config().out / "checkpoints" / "last" / CHECKPOINT_FILE
    whole = bytearray(last.read_bytes())
    whole[-5] ^= 1
    last.write_bytes(whole)
    capsys.readouterr()
    summary = train(config(save_every=1))
    said = capsys.readouterr().out
    assert "last/checkpoint.safetensors is not a whole checkpoint" in said and "trying an older one" in said
    assert "after epoch 1" in said and summary["epochs"] == 2


def test_full_disk_in_mid_run_is_survived_with_a_warning(config, capsys, monkeypatch):
    real, calls = checkpoint.save_file, []

    def third_time_full(tensors, path, metadata=None):
        calls.append(path)
        if len(calls) == 3:
            raise OSError(28, "No space left on device")
        real(tensors, path, metadata)

    monkeypatch.setattr(checkpoint, "save_file", third_time_full)
    summary = train(config(save_steps=1))
    said = capsys.readouterr().out
    assert "warning: checkpoint not saved" in said and "No space left on device" in said and summary["epochs"] == 2


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"resolution": "6:0.5,8:0.4"}, "make them sum to 1"),
        ({"resolution": "6:0.9,8:0.1"}, "less than one of 2 epochs"),
        ({"batch_norm": "ghost", "bn_group": 48}, "--train.bn-group 48 does not divide"),
        ({"batch_norm": "ghost", "bn_group": 32, "micro_batch": 96}, "--train.micro-batch 96 does not divide"),
        ({"precision": "fp16"}, "needs CUDA"),
        ({"precision": "tf32"}, "needs CUDA"),
        ({"compile": "cuda-graphs"}, "needs CUDA"),
    ],
)
def test_contradictions_are_caught_before_the_first_step(config, settings, message):
    with pytest.raises(UserError, match=message):
        train(config(**settings))
    assert not config().out.exists()


def test_options_work_together_and_micro_batches_give_the_same_curve(config):
    settings = {
        "batch_norm": "ghost",
        "bn_group": 32,
        "optimizer": "lars",
        "nesterov": True,
        "lr": 0.2,
        "lr_scale": "sqrt",
        "schedule": "step",
        "decay_epochs": (1,),
        "ema": 0.99,
        "save_every": 1,
        "keep": 1,
        "log_every": 1,
    }
    whole = train(config(**settings))
    out = config().out
    curve = [row["loss"] for row in read_metrics(out / "metrics.jsonl") if row["kind"] == "step"]
    assert sorted(path.name for path in (out / "checkpoints").iterdir()) == ["epoch-002", "last", "previous"]
    assert whole["save_wait_fraction"] < 1
    out.rename(out.with_name("whole"))
    train(config(**settings, micro_batch=64))
    parts = [row["loss"] for row in read_metrics(out / "metrics.jsonl") if row["kind"] == "step"]
    assert parts[:4] == pytest.approx(curve[:4], rel=1e-4)  # behind that rounding, tenfold a step, begins to show
