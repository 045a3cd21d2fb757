"""A disk that is full for a while, or to the end: the training goes on, says so, and loses nothing that it can keep."""

import errno
import json
import os
import sys
from pathlib import Path

import pytest

from fastvarcon.config import Config, DataConfig, ModelConfig, TrainConfig
from fastvarcon.errors import UserError
from fastvarcon.run_folder import CHECKPOINT_FILE, RunFolder, read_metrics
from fastvarcon.training import checkpoint, profiling, tracking, trainer
from fastvarcon.training.profiling import StepProfiler
from fastvarcon.training.tracking import MetricsLog
from fastvarcon.training.trainer import train


def refuse(*_args, **_kwargs):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def row(step: int, kind: str = "step") -> dict:
    return {"kind": kind, "epoch": 0, "step": step, "loss": step / 8}


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "metrics.jsonl"


def steps_in(path: Path) -> list[int]:
    return [one["step"] for one in read_metrics(path)]


@pytest.mark.skipif(sys.platform == "win32", reason="the limit is Unix's")
def test_rows_wait_for_room_and_no_row_is_torn(path):
    """A limit of the file's size that ends within a row: the system takes a part of it, as a full disk does."""
    import resource

    said = []
    log = MetricsLog(path, 0, warn=said.append)
    log.write(row(1))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 10, before[1]))
        log.write(row(2)), log.write(row(3))
        assert log.missing() == "2 rows of metrics.jsonl (File too large)"
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert len(said) == 1 and "cannot be written (File too large): training goes on, rows wait" in said[0]
    log.write(row(4))
    assert steps_in(path) == [1, 2, 3, 4] and log.missing() is None and log.waiting == ""
    assert all(json.loads(line) for line in path.read_text().splitlines())


def test_rows_that_do_not_fit_into_memory_are_counted(path, monkeypatch):
    monkeypatch.setattr(tracking, "WAITING_BYTES", 150)
    log = MetricsLog(path, 0, warn=lambda text: None)
    with monkeypatch.context() as patch:
        patch.setattr(tracking, "_open_or_make", refuse)
        for step in (1, 2, 3, 4):
            log.write(row(step))
        assert log.missing() == "4 rows of metrics.jsonl (No space left on device)"
    assert log.missing() == "2 rows of metrics.jsonl (more than fit into memory)" and steps_in(path) == [1, 2]


def test_a_log_goes_on_behind_the_step_of_the_resume(path):
    path.write_text("".join(json.dumps(row(step)) + "\n" for step in (1, 2, 3)) + '{"kind": "st')
    waiting = "".join(json.dumps(row(step, kind)) + "\n" for step, kind in ((2, "step"), (2, "epoch")))
    log = MetricsLog(path, 2, waiting=waiting)  # one of them was written after it had been saved
    log.write(row(3))
    log.close()
    assert [(one["step"], one["kind"]) for one in read_metrics(path)] == [
        (1, "step"), (2, "step"), (2, "epoch"), (3, "step"),
    ]  # fmt: skip


def test_a_file_that_somebody_emptied_has_no_hole(path):
    log = MetricsLog(path, 0)
    log.write(row(1))
    path.write_text("")
    log.write(row(2))
    assert steps_in(path) == [2]


def test_a_tracker_that_fails_is_said_and_left_out(path):
    class Tracker:
        name = "wandb"

        def __init__(self):
            self.calls = []

        def log(self, values, step):
            self.calls.append(step)
            if step == 2:
                raise ConnectionError("the server is gone\nand more")

        def finish(self):
            self.calls.append("finish")

    said, good, bad = [], Tracker(), Tracker()
    good.log = lambda values, step: good.calls.append(step)
    log = MetricsLog(path, 0, [bad, good], warn=said.append)
    for step in (1, 2, 3):
        log.write(row(step))
    log.close()
    assert bad.calls == [1, 2] and good.calls == [1, 2, 3, "finish"] and steps_in(path) == [1, 2, 3]
    assert said == [f"tracker wandb failed (the server is gone) and gets no more figures: {path} has all"]


def test_a_trace_that_cannot_be_written_is_said(tmp_path, monkeypatch):
    """torch leaves no file then, and raises nothing."""
    said = []
    monkeypatch.setattr(profiling, "SKIPPED", 0)
    monkeypatch.setattr(profiling, "TUNED", 1)
    profiler = StepProfiler(1, tmp_path / "profile" / "trace.json", said.append)
    monkeypatch.setattr(
        type(profiler._profile), "export_chrome_trace", lambda self, path: Path(f"{path}.tmp").write_text("part")
    )
    profiler.step(), profiler.step()
    assert said == ["warning: the trace of the steps was not written (is the disk full?): training goes on"]
    assert not list((tmp_path / "profile").iterdir())


def test_a_log_file_on_the_full_disk_ends_nothing(monkeypatch):
    monkeypatch.setattr(tracking, "print", refuse, raising=False)
    display = tracking.Display(10, 0, enabled=True)
    display._bar.shown = False
    display.say("a line"), display.step(1, "loss 0")


@pytest.fixture
def config(digits, tmp_path) -> Config:
    return Config(
        data=DataConfig(train=digits[0], policy="crop", size=8, eval_resize=8, workers=1),
        model=ModelConfig("resnet18", width=0.0625, small_images=True),
        train=TrainConfig(2, 512, warmup_epochs=0, device="cpu", threads=1, log_every=1, save_steps=1, trackers=""),
        out=tmp_path / "run",
    )


def test_a_disk_that_stays_full_ends_with_one_line_and_the_next_call_writes_the_rest(config, monkeypatch, capsys):
    """Full from the first step on: all steps are done, nothing of the run is on disk but its settings."""
    update = trainer.Run.update

    def update_then_full(run, *batch):
        monkeypatch.setattr(tracking, "_open_or_make", refuse)
        monkeypatch.setattr(RunFolder, "write_summary", refuse)
        monkeypatch.setattr(checkpoint, "save_file", refuse)
        return update(run, *batch)

    with monkeypatch.context() as patch:
        patch.setattr(trainer.Run, "update", update_then_full)
        with pytest.raises(UserError, match=r"lacks the last part of the run \(.*No space.*: free some space and run"):
            train(config)
    said = capsys.readouterr().out
    assert "epoch 2/2" in said and said.count("metrics.jsonl cannot be written") == 1 and "Traceback" not in said
    monkeypatch.undo()
    assert train(config)["epochs"] == 2
    assert [one["step"] for one in read_metrics(config.out / "metrics.jsonl") if one["kind"] == "epoch"] == [2, 4]


def test_rows_and_summary_that_the_disk_refused_at_the_end_come_with_the_next_call(config, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "write_summary", refuse)
        patch.setattr(tracking, "_open_or_make", refuse)
        with pytest.raises(
            UserError, match=r"up to step 4 but summary\.json \(No space.*\) and 6 rows of metrics\.jsonl"
        ):
            train(config)
    assert (config.out / "checkpoints" / "last" / CHECKPOINT_FILE).exists()
    assert not (config.out / "metrics.jsonl").exists()
    summary = train(config)
    assert json.loads((config.out / "summary.json").read_text())["final_loss"] == summary["final_loss"]
    rows = read_metrics(config.out / "metrics.jsonl")
    assert [one["step"] for one in rows] == [1, 2, 2, 3, 4, 4]


def test_a_full_disk_at_the_start_is_one_line(config, monkeypatch):
    monkeypatch.setattr("fastvarcon.run_folder.write_json", refuse)
    with pytest.raises(UserError, match=r"config\.json cannot be written \(No space left on device\)"):
        train(config)
