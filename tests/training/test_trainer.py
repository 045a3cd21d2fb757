"""Whole training runs on small data: outputs, resume, refusal, crashes."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from fastvarcon.data.sampling import epoch_order
from fastvarcon.run_folder import read_metrics

ROOT = Path(__file__).parents[2]
SMALL = ("--model.width", "0.125", "--data.size", "8", "--data.eval-resize", "8", "--train.device", "cpu")


@pytest.fixture
def train(call, digits, tmp_path):
    """Run recipes/digits.py on a network and for a time that suit a test; further flags override."""

    def run(*flags: str, out: Path | None = None, epochs: int = 2, code: int = 0) -> subprocess.CompletedProcess[str]:
        done = call(*command(digits, out or tmp_path / "run", epochs, *flags))
        assert done.returncode == code, done.stdout + done.stderr
        return done

    return run


@pytest.fixture(scope="module")
def epoch_of(digits, tmp_path_factory):
    """Where the run of one epoch is that several tests begin with: trained once."""
    return tmp_path_factory.mktemp("runs") / "epoch"


@pytest.fixture
def finished(train, epoch_of, tmp_path) -> Path:
    """A copy of a finished run of one epoch, in tmp_path/run."""
    if not epoch_of.exists():
        train(out=epoch_of, epochs=1)
    return shutil.copytree(epoch_of, tmp_path / "run")


def command(digits, out, epochs: int, *flags: str) -> list:
    return [
        "recipes/digits.py",
        "--data.train",
        digits[0],
        "--data.val",
        digits[1],
        "--out",
        out,
        "--train.epochs",
        str(epochs),
        "--train.global-batch",
        "128",
        "--train.warmup-epochs",
        "0",
        *SMALL,
        *flags,
    ]


def test_run_folder_holds_what_the_design_says(train, tmp_path):
    output = train("--train.save-every", "1").stdout
    run = tmp_path / "run"
    config, summary = (json.loads((run / name).read_text()) for name in ("config.json", "summary.json"))
    assert config["train.epochs"] == 2 and config["loss.tau1"] == 0.1 and config["data.backend"] == "cpu"
    assert summary["epochs"] == 2 and summary["world_size"] == 1 and summary["global_batch"] == 128
    assert summary["backend"] == "cpu" and summary["versions"]["torch"] == torch.__version__
    assert summary["final_loss"] < 4 and summary["views_per_second"] > 0 and 0 <= summary["data_wait_fraction"] < 1
    assert {"seconds", "command"} <= summary.keys()
    assert sorted(p.name for p in (run / "checkpoints").iterdir()) == ["epoch-001", "epoch-002", "last", "previous"]
    assert not list(run.rglob("*.partial"))
    rows = read_metrics(run / "metrics.jsonl")
    assert [row["step"] for row in rows if row["kind"] == "epoch"] == [11, 22]
    assert all({"loss", "tau2", "tau2_std", "confidence", "lr"} <= row.keys() for row in rows if row["kind"] == "step")
    assert 0 < rows[-1]["val_knn_top1"] <= 1
    assert "data backend cpu" in output and "views/s" in output and "data wait" in output and "left" in output


def test_encoder_file_is_the_encoder(finished):
    from fastvarcon.models.encoders import load_encoder

    encoder = load_encoder(finished)
    assert encoder(torch.randn(2, 3, 8, 8)).shape == (2, 64)


def test_loss_falls_and_beats_chance(train, tmp_path):
    train(epochs=4)
    epochs = [row for row in read_metrics(tmp_path / "run" / "metrics.jsonl") if row["kind"] == "epoch"]
    assert epochs[-1]["loss"] < 0.7 * epochs[0]["loss"] and epochs[-1]["val_knn_top1"] > 0.5


def test_finished_run_is_left_alone(train, finished):
    before = {p: p.stat().st_mtime_ns for p in finished.rglob("*.safetensors")}
    summary = finished / "summary.json"
    summary.write_text(json.dumps({**json.loads(summary.read_text()), "linear_top1": 0.5}))
    assert "nothing left to train" in train(epochs=1).stdout
    assert {p: p.stat().st_mtime_ns for p in finished.rglob("*.safetensors")} == before
    assert json.loads(summary.read_text())["linear_top1"] == 0.5


def test_other_configuration_is_refused_with_the_keys_that_differ(train, finished):
    before = (finished / "config.json").read_text()
    error = train("--loss.tau1", "0.2", epochs=3, code=2).stderr
    assert "loss.tau1 (0.1 -> 0.2)" in error and "train.epochs (1 -> 3)" in error and "Traceback" not in error
    assert (finished / "config.json").read_text() == before
    train("--train.log-every", "3", "--data.workers", "1", epochs=1)  # these may differ


def test_other_configuration_may_start_over_before_the_first_checkpoint(train, tmp_path):
    train("--train.lr", "1e30", code=2)
    assert (tmp_path / "run" / "config.json").exists()
    train(epochs=1)
    assert read_metrics(tmp_path / "run" / "metrics.jsonl")[0]["loss"] < 10


def test_data_that_changed_under_a_run_is_noticed(train, digits, tmp_path):
    from fastvarcon.data.beton import RAW, Beton
    from fastvarcon.data_prep.beton_writer import BetonWriter
    from fastvarcon.data_prep.record import Record

    data, whole = tmp_path / "train.beton", Beton(digits[0])
    for count in (1437, 1400):
        with BetonWriter(data, count, whole.classes) as writer:
            for i in range(count):
                writer.add(Record(bytes(whole.record(i)), RAW, 8, 8), int(whole.labels[i]), int(whole.hashes[i]))
        if count == 1437:
            train("--data.train", str(data), epochs=1)
    error = train("--data.train", str(data), epochs=1, code=2).stderr
    assert "has changed since" in error and "1,400 images, not 1,437" in error


def test_unlabelled_images_are_refused(train, tmp_path):
    from fastvarcon.data.beton import RAW
    from fastvarcon.data.records import content_hash
    from fastvarcon.data_prep.beton_writer import BetonWriter
    from fastvarcon.data_prep.record import Record

    with BetonWriter(tmp_path / "u.beton", 2, ["a", "b"]) as writer:
        for label in (0, -1):
            writer.add(Record(bytes(3), RAW, 1, 1), label, content_hash(bytes(3)))
    assert "has unlabelled images" in train("--data.train", str(tmp_path / "u.beton"), code=2).stderr


def test_error_of_one_rank_is_shown_and_ends_all(run_python, tmp_path, digits):
    """A broken image that falls to the second rank: its name is printed, once, and nobody waits."""
    from fastvarcon.data.beton import JPG, RAW
    from fastvarcon.data.records import content_hash
    from fastvarcon.data_prep.beton_writer import BetonWriter
    from fastvarcon.data_prep.record import Record

    with BetonWriter(tmp_path / "bad.beton", 8, ["a", "b"]) as writer:
        for i in range(8):
            payload = bytes(192) if i != BROKEN else b"\xff\xd8 broken"
            writer.add(Record(payload, JPG if i == BROKEN else RAW, 8, 8), i % 2, content_hash(payload))
    flags = command((tmp_path / "bad.beton", digits[1]), tmp_path / "run", 1, "--train.val-every", "0")
    flags[flags.index("128")] = "8"
    done = run_python("-m", "torch.distributed.run", "--nproc_per_node", "2", *flags)
    assert done.returncode != 0 and done.stderr.count(f"bad.beton record {BROKEN}: ") == 1
    assert "error on rank 1: " in done.stderr


BROKEN = int(epoch_order(8, 0, 0)[7])


def test_second_process_on_the_same_folder_is_refused(train, digits, tmp_path):
    flags = command(digits, tmp_path / "run", 50)
    first = subprocess.Popen([sys.executable, *map(str, flags)], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        for line in first.stdout:
            if line.startswith("step"):
                break
        assert "in use by another run" in train(epochs=50, code=2).stderr
    finally:
        first.kill()
        first.wait()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--data.train", "missing.beton"), "missing.beton does not exist"),
        (("--data.train", "README.md"), "README.md is not a"),
        (("--data.train", "tests"), "--data.backend folder"),
        (("--train.global-batch", "2000"), "larger than the dataset of 1437"),
        (("--train.device", "cuda"), "no CUDA device"),
        (("--train.precision", "fp16"), "needs CUDA"),
        (("--loss.tau1", "0.02"), "must be larger than --loss.eps"),
        (("--train.lr", "-1"), "--train.lr must be positive"),
        (("--train.learning-rate", "1"), "--train.learning-rate"),
        (("--data.backend", "lmdb"), "lmdb"),
        (("--out", "README.md"), "README.md is a file"),
        (("--out", "tests"), "is not a run folder"),
        (("--train.warmup-epochs", "9"), "--train.warmup-epochs"),
        (("--data.policy", "crop", "--data.num-views", "0"), "--data.num-views"),
    ],
)
def test_mistakes_exit_2_with_one_line_and_leave_nothing(train, tmp_path, flags, message):
    if "cuda" in flags and torch.cuda.is_available():
        return
    done = train(*flags, code=2)
    assert message in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "run").exists()


def test_diverged_run_says_so(train):
    error = train("--train.lr", "1e30", code=2).stderr
    assert "lower --train.lr" in error and "Traceback" not in error


def loss_curve(run: Path) -> list[float]:
    return [row["loss"] for row in read_metrics(run / "metrics.jsonl") if row["kind"] == "step"]


def test_two_processes_give_the_loss_curve_of_one(call, run_ranks, digits, tmp_path):
    """recipes/digits.py as it is, at 1e-4 relative over the first epoch."""
    common = [
        "recipes/digits.py",
        "--data.train",
        digits[0],
        "--data.val",
        digits[1],
        "--train.log-every",
        "1",
        "--train.epochs",
        "1",
        "--train.lr",
        "0.0125",
        "--train.warmup-epochs",
        "1",
    ]
    assert call(*common, "--out", tmp_path / "one").returncode == 0
    assert "2 process(es) on cpu" in run_ranks(2, *common, "--out", tmp_path / "two")
    one, two = loss_curve(tmp_path / "one"), loss_curve(tmp_path / "two")
    assert len(one) == 5 and two == pytest.approx(one, rel=1e-4)
    assert json.loads((tmp_path / "two" / "summary.json").read_text())["world_size"] == 2


def test_accelerate_launch_is_the_same_run(train, accelerate_launch, digits, tmp_path):
    flags = ("--train.threads", "1")
    train(*flags, out=tmp_path / "one", epochs=1)
    accelerate_launch(*command(digits, tmp_path / "two", 1, *flags))
    assert loss_curve(tmp_path / "one") == loss_curve(tmp_path / "two")


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["bf16", "fp16", "fp32"])
def test_gpu_run(train, tmp_path, precision):
    train("--train.device", "cuda", "--train.precision", precision, epochs=4)
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["device"] == "cuda" and summary["val_knn_top1"] > 0.5


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_gpu_run_resumes(train, digits, tmp_path, precision):
    flags = ("--train.device", "cuda", "--train.precision", precision, "--train.save-every", "1")
    train(*flags, epochs=3)
    run = tmp_path / "run"
    shutil.copy(run / "checkpoints" / "epoch-001" / "checkpoint.safetensors", run / "checkpoints" / "last")
    (run / "summary.json").unlink()
    assert "after epoch 1" in train(*flags, epochs=3).stdout
    assert json.loads((run / "summary.json").read_text())["val_knn_top1"] > 0.4


def test_ways_of_feeding_give_the_same_run_or_say_what_they_did(train, tmp_path):
    """The same images wherever they are decoded; a file of one window is shuffled as any; another order differs."""
    losses, backends = {}, {}
    for name, flags in {
        "cpu": (),
        "resident": ("--data.backend", "resident", "--data.on-bad-image", "replace"),
        "block": ("--sampling.order", "block", "--sampling.block-mb", "1", "--sampling.window-mb", "1"),
        "balanced": ("--sampling.per-class", "4", "--train.val-every", "0"),
    }.items():
        train(*flags, out=tmp_path / name, epochs=1)
        summary = json.loads((tmp_path / name / "summary.json").read_text())
        losses[name], backends[name] = summary["final_loss"], summary["backend"]
        assert summary["replaced_images"] == 0
    assert losses["cpu"] == losses["resident"] == losses["block"] != losses["balanced"]
    assert backends["resident"] == "resident (host)" and backends["cpu"] == "cpu"
