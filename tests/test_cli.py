"""The `fastvarcon` command as a user meets it."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from fastvarcon.data.beton import RAW, Beton
from fastvarcon.data_prep.beton_writer import BetonWriter
from fastvarcon.data_prep.record import Record


@pytest.fixture(scope="session")
def trained(digits, tmp_path_factory):
    """The run folder of one quick epoch on digits."""
    from fastvarcon.config import Config, DataConfig, ModelConfig, TrainConfig
    from fastvarcon.training.trainer import train

    run = tmp_path_factory.mktemp("runs") / "quick"
    data = DataConfig(train=digits[0], val=digits[1], policy="crop", size=8, eval_resize=8)
    model = ModelConfig("resnet18", width=0.125, small_images=True)
    train(Config(data, model, train=TrainConfig(2, 128, lr=0.1, warmup_epochs=1, device="cpu"), out=run))
    return run


def test_convert_and_inspect(fastvarcon, image_folder, tmp_path):
    out = tmp_path / "a.beton"
    (image_folder / "ant" / "notes.txt").write_text("x")
    said = fastvarcon("convert", image_folder, out, "--max-resolution", "32", "--quality", "80", "--workers", "2")
    assert "15/15 images" in said and "images/s" in said and "15 images, 3 classes" in said
    assert "left out: 1 text file\n" in said
    said = fastvarcon("inspect", out)
    assert "15 images, 3 classes" in said and "max_resolution 32" in said and "class 2     cat: 6 images" in said


def test_convert_a_few_per_class(fastvarcon, image_folder, tmp_path):
    fastvarcon("convert", image_folder, tmp_path / "a.beton", "--per-class", "2")
    assert Beton(tmp_path / "a.beton").labels.tolist() == [0, 0, 1, 1, 2, 2]


def test_convert_some_classes(fastvarcon, image_folder, tmp_path):
    (tmp_path / "classes.txt").write_text("cat\n\nant\n")
    said = fastvarcon("convert", image_folder, tmp_path / "a.beton", "--classes", tmp_path / "classes.txt")
    assert "10 images, 2 classes" in said and Beton(tmp_path / "a.beton").classes == ["ant", "cat"]
    (tmp_path / "classes.txt").write_text("\n")
    said = fastvarcon("convert", image_folder, tmp_path / "a.beton", "--classes", tmp_path / "classes.txt", code=2)
    assert "classes.txt is empty: give a text with a class a line" in said


def test_skipped_files_are_named(fastvarcon, image_folder, tmp_path):
    (image_folder / "bee" / "0.jpg").write_bytes(b"broken")
    assert "--on-error skip" in fastvarcon("convert", image_folder, tmp_path / "a.beton", code=2)
    said = fastvarcon("convert", image_folder, tmp_path / "a.beton", "--on-error", "skip")
    assert "1 broken files were skipped" in said and "bee/0.jpg" in said


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("convert", "nowhere", "a.beton"), "nowhere does not exist"),
        (("convert", "tests/nothing/here", "a.beton"), "does not exist"),
        (("convert", "README.md", "a.beton"), "holds nothing that is known"),
        (("convert", "tests", "missing/a.beton", "--max-resolution", "0"), "--max-resolution"),
        (("convert", "tests", "a.beton", "--quality", "101"), "--quality"),
        (("convert", "tests", "a.beton", "--compression", "9"), "--compression"),
        (("inspect", "nowhere.beton"), "nowhere.beton does not exist"),
        (("inspect", "README.md"), "README.md is not a"),
        (("eval", "linear", "nowhere"), "nowhere is not a run folder"),
        (("eval", "guess", "nowhere"), "linear"),
        (("report", "tests"), "tests is not a run folder"),
        (("eval", "knn", "nowhere", "--k"), "--k"),
        (("eval", "knn", "nowhere", "--k", "0"), "--k"),
        (("eval", "knn", "nowhere", "--data.workers", "-1"), "--data.workers"),
        (("eval", "linear", "nowhere", "--seed", "99999999999999999999"), "--seed"),
        (("report",), "RUN"),
    ],
)
def test_mistakes_exit_2_with_a_clear_line(fastvarcon, args, message):
    assert message in fastvarcon(*args, code=2)
    assert not Path("a.beton").exists()


def test_help_is_quick_and_complete(run_python):
    done = run_python("-X", "importtime", "-m", "fastvarcon.cli", "--help")
    assert done.returncode == 0 and all(name in done.stdout for name in ("convert", "inspect", "eval", "report"))
    assert not re.search(r"\btorch$", done.stderr, re.M), "torch takes seconds to import"


def test_eval_writes_scores_and_report_shows_them(fastvarcon, trained, digits):
    pair = ("--data.train", digits[0], "--data.val", digits[1])
    assert "top-1" in fastvarcon("eval", "linear", trained, *pair)
    said = fastvarcon("eval", "knn", trained, *pair)
    assert all(f"k = {k:>4}" in said for k in (1, 5, 20, 200))
    fastvarcon("eval", "knn", trained, *pair, "--features", "pixels")
    linear, knn, pixels = (
        json.loads((trained / "eval" / f"{n}.json").read_text()) for n in ("linear", "knn", "knn-pixels")
    )
    assert {"top1", "command", "seed", "seconds", "lr", "num_val"} <= linear.keys() and linear["command"].startswith(
        "fastvarcon eval"
    )
    assert knn["top1"] == knn["top1_by_k"]["20"] and pixels["top1"] > 0.9
    summary = json.loads((trained / "summary.json").read_text())
    assert summary["linear_top1"] == linear["top1"] and summary["knn_top1"] == knn["top1"] and "final_loss" in summary

    said = fastvarcon("report", trained)
    assert all(row in said for row in ("VarCon linear", "VarCon kNN", "raw-pixel kNN", f"{linear['top1']:.2%}"))
    assert str(trained / "report.html") in said.replace("\n", "")
    page = (trained / "report.html").read_text()
    assert all(
        title in page for title in ("Loss", "Accuracy", "Adaptive temperature tau2", "Confidence", "--loss.tau1")
    )
    assert page.count("data:image/svg+xml;base64,") == 7 and "http" not in page and "<script" not in page


def test_score_of_an_earlier_encoder_is_marked(fastvarcon, trained, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    fastvarcon("eval", "knn", run)
    weights = load_file(run / "encoder.safetensors")
    save_file(
        {name: tensor + 1 if tensor.is_floating_point() else tensor for name, tensor in weights.items()},
        run / "encoder.safetensors",
    )
    assert "EARLIER" in fastvarcon("report", run).replace("\n", "")


def test_score_before_the_end_of_training_makes_no_summary(fastvarcon, trained, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    (run / "summary.json").unlink()
    fastvarcon("eval", "knn", run)
    assert not (run / "summary.json").exists() and "Not finished" in _report(fastvarcon, run)


def _report(fastvarcon, run: Path) -> str:
    fastvarcon("report", run)
    return (run / "report.html").read_text()


def test_export_is_two_lines_away(fastvarcon, trained):
    from fastvarcon import load_encoder

    assert "model.safetensors" in fastvarcon("export", trained, "--to", "safetensors")
    one, other = load_encoder(trained).state_dict(), load_encoder(trained / "export" / "safetensors").state_dict()
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert "torchvision has no resnet18" in fastvarcon("export", trained, "--to", "torchvision", code=2)


def test_small_training_sets_need_no_flag(fastvarcon, trained, digits, tmp_path):
    """The default numbers of neighbours that a set of 100 cannot give are left out; explicit ones are refused."""
    whole, small = Beton(digits[0]), tmp_path / "small.beton"
    with BetonWriter(small, 100, whole.classes) as writer:
        for i in range(100):
            writer.add(Record(bytes(whole.record(i)), RAW, 8, 8), int(whole.labels[i]), int(whole.hashes[i]))
    said = fastvarcon("eval", "knn", trained, "--data.train", small)
    assert "k =   20" in said and "k =  200" not in said
    assert "k = 200 neighbours" in fastvarcon("eval", "knn", trained, "--data.train", small, "--k", "200", code=2)


def test_output_may_be_cut_short(digits):
    command = f"{sys.executable} -m fastvarcon.cli inspect {digits[0]} | head -n 1"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert "1,437 images" in done.stdout and "Traceback" not in done.stderr


def test_eval_refuses_what_does_not_fit(fastvarcon, trained, digits, image_folder, tmp_path):
    fastvarcon("convert", image_folder, tmp_path / "other.beton")
    assert "different classes" in fastvarcon("eval", "knn", trained, "--data.val", tmp_path / "other.beton", code=2)
    assert "k = 5000 neighbours" in fastvarcon("eval", "knn", trained, "--k", "5000", code=2)
