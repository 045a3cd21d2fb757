"""Every further evaluation as a user meets it, on digits and a random encoder: its file, its section, its mistakes."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from fastvarcon.config import Config, DataConfig, ModelConfig
from fastvarcon.data.beton import Beton
from fastvarcon.models import ContrastiveModel
from fastvarcon.training.checkpoint import save_checkpoint


@pytest.fixture
def score(fastvarcon, encoder_file, digits, tmp_path):
    """Runs an evaluation and returns its figures, what it printed and its page."""

    def run(name, *args, code=0, target=encoder_file):
        data = ("--data.train", digits[0], "--data.val", digits[1], "--data.size", "8", "--out", tmp_path / "out")
        said = fastvarcon("eval", name, target, *data, *args, code=code)
        if code:
            return said
        figures = json.loads((tmp_path / "out" / "eval" / f"{name}.json").read_text())
        page = (tmp_path / "out" / "report.html").read_text()
        assert {"command", "seed", "seconds", "protocol"} <= figures.keys()
        assert f'<section id="{name}">' in page and "fastvarcon eval " + name in page
        return figures, said, page

    return run


def test_few_shot(score):
    args = ("--shots", "1", "5", "5000", "--draws", "3", "--against", "shufflenet_v2_x0_5")
    args += ("--against-weights", "random")
    figures, said, page = score("few-shot", *args)
    assert figures["shots"] == [1, 5] and figures["shots_left_out"] == [5000] and "5000" in figures["protocol"]
    rows = {(row["encoder"], row["method"], row["shots"]): row for row in figures["rows"]}
    assert len(rows) == 8 and all(len(row["by_draw"]) == 3 for row in rows.values())
    one = rows["tiny", "nearest class mean", 1], rows["shufflenet_v2_x0_5-random", "nearest class mean", 1]
    paired = next(row for row in figures["differences"] if row["method"] == "nearest class mean" and row["shots"] == 1)
    assert paired["by_draw"] == pytest.approx(np.subtract(one[0]["by_draw"], one[1]["by_draw"]))
    assert rows["tiny", "logistic regression", 5]["mean"] > rows["tiny", "logistic regression", 1]["mean"] > 0.15
    assert "5 a class" in said and "difference" in page
    assert "a class has only" in score("few-shot", "--shots", "5000", code=2)
    assert "--draws" in score("few-shot", "--draws", "1", code=2)


def test_transfer(score, digits):
    figures, said, page = score("transfer", "--datasets", *digits, *digits)
    assert len(figures["rows"]) == 2 and figures["top1"] == figures["rows"][0]["logistic_top1"] > 0.5
    assert "logistic regression" in said and page.count(str(digits[1])) > 2
    assert "files in pairs" in score("transfer", "--datasets", digits[0], code=2)
    assert "does not exist" in score("transfer", "--datasets", digits[0], "none.beton", code=2)


def test_fine_tuning_learns(score, encoder_file, digits):
    before = encoder_file.read_bytes()
    args = (
        "--datasets",
        digits[1],
        digits[1],
        "--fine-tune",
        "--fine-tune-epochs",
        "8",
        "--fine-tune-batch",
        "32",
        "--allow-same",
    )
    figures, said, page = score("transfer", *args)
    [row] = figures["rows"]
    assert row["fine_tuned_top1"] > 0.3 and row["fine_tune_lr"] in (0.003, 0.01, 0.03)
    assert "fine-tuned" in said and "fine-tuned" in page and encoder_file.read_bytes() == before


def test_clustering(score, tmp_path):
    groups = tmp_path / "groups.csv"
    groups.write_text("".join(f"{digit},{'round' if digit in (0, 6, 8, 9) else 'open'}\n" for digit in range(10)))
    figures, _, page = score("clustering", "--superclasses", groups, "--images", "200")
    assert figures["num_val"] == 200 and 0 < figures["ari"] < figures["purity"] < 1
    assert len(figures["class_tree"]) == 9 and figures["superclasses"]["count"] == 2
    assert "Tree of class means" in page and "cophenetic correlation" in page
    groups.write_text("0,round\n")
    assert "lacks 9 classes" in score("clustering", "--superclasses", groups, code=2)


def test_calibration(score):
    figures, said, page = score("calibration", "--bins", "10")
    assert sum(one["count"] for one in figures["bins"]) == 360 and 0 < figures["ece"] < 0.5
    assert "expected calibration error" in said and "Reliability" in page


def test_corruptions_made_here(score):
    figures, said, _ = score("corruption", "--corruptions", "fog", "gaussian_noise", "--severities", "1", "5")
    assert list(figures["errors"]) == ["fog", "gaussian_noise"] and list(figures["errors"]["fog"]) == ["1", "5"]
    assert figures["errors"]["fog"]["5"] > 1 - figures["clean_top1"] and figures["mce"] is None
    assert figures["top1"] == pytest.approx(1 - figures["mean_error"]) and "fog" in said
    assert "unknown corruption 'rain'" in score("corruption", "--corruptions", "rain", code=2)
    assert "all five severities" in score("corruption", "--severities", "1", "--normalise", "alexnet", code=2)


def test_corrupted_arrays_and_folders(score, digits, tmp_path):
    """The clean held-out images in the published forms: as many errors as without corruption."""
    val, arrays, folder = Beton(digits[1]), tmp_path / "cifar-c", tmp_path / "imagenet-c"
    pixels = np.stack([np.frombuffer(val.record(i), np.uint8).reshape(8, 8, 3) for i in range(len(val))])
    arrays.mkdir()
    np.save(arrays / "snow.npy", np.concatenate([pixels] * 5))
    np.save(arrays / "labels.npy", np.tile(val.labels, 5))
    for index in range(len(val)):
        place = folder / "weather" / "snow" / "2" / val.classes[val.labels[index]]
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels[index]).save(place / f"{index:04}.png")
    for source, severity in ((arrays, "4"), (folder, "2")):
        figures, _, _ = score("corruption", "--source", source, "--severities", severity)
        assert figures["errors"]["snow"][severity] == pytest.approx(1 - figures["clean_top1"], abs=1e-9)
    assert "give --severities that the source holds" in score("corruption", "--source", folder, code=2)
    np.save(arrays / "labels.npy", np.zeros(360, np.uint8))
    assert "other classes (1)" in score("corruption", "--source", arrays, code=2)


def test_embed_saves_features_and_draws_every_checkpoint(score, digits, tmp_path):
    model = ModelConfig("resnet18", width=1 / 16, small_images=True, head_dim=8)
    run = tmp_path / "run"
    run.mkdir()
    Config(DataConfig(size=8, eval_resize=8, train=digits[0], val=digits[1]), model).save(run / "config.json")
    torch.manual_seed(1)
    network = ContrastiveModel(model)
    save_checkpoint(run / "checkpoints" / "epoch-001", {"model": network.state_dict()})
    save_file(network.encoder.state_dict(), run / "encoder.safetensors")
    saved = tmp_path / "f.npz"
    args = ("--images", "60", "--checkpoints", "epoch-001", "--save", saved)
    figures, _, page = score("embed", *args, target=run)
    assert figures["maps"][0]["checkpoint"] == "epoch-001" and len(figures["labels"]) == 60
    assert all(len(one["places"]) == 60 and np.min(one["places"]) >= 0 for one in figures["maps"])
    assert page.count("<circle") == 60 * len(figures["maps"]) and "url(data:image/jpeg" in page
    with np.load(saved, allow_pickle=False) as arrays:
        [cached] = (tmp_path / "out" / "features").glob("*.safetensors")
        assert (arrays["features_encoder"] == load_file(cached)["x"].numpy()[arrays["ids"]]).all()
        assert (arrays["features_epoch-001"] == arrays["features_encoder"]).all(), "the same weights"
        assert arrays["labels"].tolist() == figures["labels"]
    said = score("embed", "--checkpoints", "epoch-9", target=run, code=2)
    assert "epoch-9 does not exist: the run has epoch-001" in said
