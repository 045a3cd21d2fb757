"""RUN on the command line, for all that it may be; and inputs that do not fit: one line, exit code 2."""

import json

import pytest
import torch
import torchvision
from safetensors.torch import load_file, save_file

from fastvarcon.config import Config, DataConfig, ModelConfig
from fastvarcon.data.beton import RAW, Beton
from fastvarcon.data_prep.beton_writer import BetonWriter
from fastvarcon.data_prep.record import Record
from fastvarcon.errors import UserError
from fastvarcon.evaluation.job import data_settings
from fastvarcon.evaluation.options import EvalData
from fastvarcon.evaluation.target import Target, resnet_like, resolve
from fastvarcon.models import ContrastiveModel
from fastvarcon.models.exported import EncoderSpec
from fastvarcon.run_folder import CHECKPOINT_FILE
from fastvarcon.training.checkpoint import save_checkpoint

TINY = ModelConfig("resnet18", width=1 / 16, small_images=True, head_dim=8)


@pytest.fixture
def run_folder(tmp_path):
    """A run with an encoder and a checkpoint of another epoch, as the trainer writes them."""
    run = tmp_path / "run"
    run.mkdir()
    Config(DataConfig(size=16, eval_resize=18), TINY).save(run / "config.json")
    torch.manual_seed(1)
    save_file(ContrastiveModel(TINY).encoder.state_dict(), run / "encoder.safetensors")
    save_checkpoint(run / "checkpoints" / "epoch-001", {"epoch": 1, "model": ContrastiveModel(TINY).state_dict()})
    return run


def test_run_folder_and_its_checkpoint(run_folder):
    images = torch.rand(2, 3, 16, 16)
    run, checkpoint = (resolve(str(path), None) for path in (run_folder, run_folder / "checkpoints" / "epoch-001"))
    assert (run.kind, checkpoint.kind, checkpoint.title) == ("run", "checkpoint", "run-epoch-001")
    assert run.settings.size == checkpoint.settings.size == 16
    (encoder, digest), (other, other_digest) = run.build(16), checkpoint.build(16)
    stored = load_file(run_folder / "checkpoints" / "epoch-001" / CHECKPOINT_FILE)
    assert torch.equal(other.conv1.weight, stored["/model/encoder.conv1.weight"])
    assert digest != other_digest and not torch.equal(encoder(images), other(images)) and not encoder.training


def test_exported_file_tells_its_architecture(encoder_file):
    for where in (encoder_file, encoder_file.parent):
        target = resolve(str(where), None)
        encoder, _ = target.build(16)
        assert target.kind == "file" and target.title == "tiny"
        assert torch.equal(encoder.state_dict()["conv1.weight"], load_file(encoder_file)["conv1.weight"])


def test_export_knows_its_images(run_folder, tmp_path):
    spec = EncoderSpec.of_config(Config.load(run_folder / "config.json"))
    folder = tmp_path / "shipped"
    folder.mkdir()
    save_file(load_file(run_folder / "encoder.safetensors"), folder / "model.safetensors", spec.header())
    for where in (folder, folder / "model.safetensors"):
        target = resolve(str(where), None)
        assert (target.kind, target.title) == ("export", "shipped")
        assert (target.settings.size, target.settings.eval_resize) == (16, 18)
        chosen = [data_settings(target, EvalData(interpolation=name)).interpolation for name in (None, "bicubic")]
        assert chosen == ["bilinear", "bicubic"]
        images = torch.rand(2, 3, 16, 16)
        assert torch.equal(target.build(16)[0](images), resolve(str(run_folder), None).build(16)[0](images))


@pytest.mark.parametrize(("name", "width"), [("resnet18", 1.0), ("resnet34", 0.25), ("resnet50", 0.125)])
def test_architecture_is_read_off_the_tensors(name, width, tmp_path):
    from fastvarcon.models.encoders import build_encoder

    state = build_encoder(name, width=width).state_dict()
    assert resnet_like(state, tmp_path)().state_dict().keys() == state.keys()


def test_torchvision_model_gives_the_features_before_its_classifier(tmp_path):
    torch.manual_seed(3)
    network = torchvision.models.mobilenet_v3_small(weights=None).eval()
    weights, images = tmp_path / "w.safetensors", torch.rand(2, 3, 32, 32)
    save_file(network.state_dict(), weights)
    encoder, digest = resolve("mobilenet_v3_small", str(weights)).build(32)
    assert torch.equal(network.classifier[-1](encoder(images)), network(images))
    random = resolve("mobilenet_v3_small", "random")
    assert random.build(32)[1] == random.build(32)[1] != digest
    assert torch.equal(random.build(32)[0](images), random.build(32)[0](images))


def test_stock_resnet_file_may_keep_its_classifier(tmp_path):
    network = torchvision.models.resnet18(weights=None).eval()
    save_file(network.state_dict(), tmp_path / "w.safetensors")
    images = torch.rand(1, 3, 64, 64)
    assert torch.equal(network.fc(Target("file", tmp_path / "w.safetensors").build(64)[0](images)), network(images))


def test_timm_model():
    timm = pytest.importorskip("timm", reason="timm is not installed")
    encoder, _ = resolve("timm/resnet10t", "random").build(32)
    assert encoder(torch.rand(1, 3, 32, 32)).shape == (1, timm.create_model("resnet10t").num_features)


def test_nothing_is_downloaded(monkeypatch):
    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", lambda *a, **k: pytest.fail("a download"))
    with pytest.raises(UserError, match=r"resnet18 is an architecture: give --weights"):
        resolve("resnet18", None)
    resolve("resnet18", "random").build(32)


def test_weights_that_do_not_fit(tmp_path, encoder_file):
    pickle = tmp_path / "w.pth"
    pickle.write_bytes(b"x")
    with pytest.raises(UserError, match=r"not a \.safetensors file\. Convert it once: python -c"):
        resolve("resnet18", str(pickle))
    for weights, message in ((tmp_path / "no.safetensors", "not a whole"), (encoder_file, "does not fit")):
        with pytest.raises(UserError, match=message):
            resolve("resnet18", str(weights)).build(32)
    state = load_file(encoder_file)
    short = tmp_path / "short.safetensors"
    save_file({name: tensor for name, tensor in state.items() if name != "bn1.weight"}, short)
    with pytest.raises(UserError, match=r"lacks 1 tensor \(bn1\.weight\)"):
        Target("file", short).build(16)
    save_file({**state, "more.weight": state["bn1.weight"].clone()}, short)
    with pytest.raises(UserError, match=r"has 1 tensor \(more\.weight\) that the architecture lacks"):
        Target("file", short).build(16)
    save_file({"a": torch.zeros(1)}, short)
    with pytest.raises(UserError, match="does not hold a ResNet"):
        Target("file", short).build(16)


@pytest.fixture
def unlabelled(digits, tmp_path):
    whole, path = Beton(digits[1]), tmp_path / "unlabelled.beton"
    with BetonWriter(path, 3, whole.classes) as writer:
        for i in range(3):
            writer.add(Record(bytes(whole.record(i)), RAW, 8, 8), -1, int(whole.hashes[i]))
    return path


def test_bad_input_is_one_line_and_exit_code_2(fastvarcon, digits, encoder_file, image_folder, unlabelled, tmp_path):
    train, val = digits
    data = ("--data.train", train, "--data.val", val, "--data.size", "8", "--out", tmp_path / "out")
    refused = [
        (("knn", "nowhere"), "nowhere is not a run folder, nor"),
        (("knn", tmp_path / "a.safetensors"), "does not exist"),
        (("knn", tmp_path), "is not a run folder, and holds 0"),
        (("knn", encoder_file, "--weights", "random"), "leave it out"),
        (("knn", encoder_file, "--data.train", train), "--data.val is missing"),
        (("knn", encoder_file, *data, "--k", "5000"), "k = 5000 neighbours cannot be found among 1437"),
        (("linear", encoder_file, *data[:2], "--data.val", unlabelled, *data[4:]), "has unlabelled images"),
        (("knn", "vit_b_16", "--weights", "random", *data), "vit_b_16-random does not take images of 8 x 8 pixels"),
        (
            ("knn", encoder_file, *data, "--data.eval-resize", "4"),
            "--data.eval-resize (4) must lie between --data.size (8) and",
        ),
        (("linear", encoder_file, *data, "--seeds", "0"), "--seeds"),
        (("linear", encoder_file, *data, "--features", "pixels", "--protocol", "paper"), "needs an encoder"),
        (
            ("knn", encoder_file, *data[:2], "--data.val", image_folder, *data[4:], "--data.backend", "folder"),
            "digits",
        ),
    ]
    for args, message in refused:
        assert message in fastvarcon("eval", *args, code=2), args
    assert not list((tmp_path / "out").rglob("*.json"))


def test_files_with_different_classes(fastvarcon, encoder_file, image_folder, tmp_path):
    few = tmp_path / "few"
    few.mkdir()
    (few / "ant").symlink_to(image_folder / "ant")
    args = ("--data.train", few, "--data.val", image_folder, "--data.backend", "folder", "--data.size", "8")
    said = fastvarcon("eval", "linear", encoder_file, *args, code=2)
    assert "different classes: 2 of the 3 held-out ones are not among the 1 of training (bee, cat)" in said


def test_score_of_an_exported_encoder_has_a_folder_of_its_own(fastvarcon, encoder_file, digits, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    said = fastvarcon(
        "eval", "knn", encoder_file, "--data.train", digits[0], "--data.val", digits[1], "--data.size", "8"
    )
    assert "runs/eval-tiny/report.html" in said
    score = json.loads((tmp_path / "runs/eval-tiny/eval/knn.json").read_text())
    assert {"top1", "command", "seed", "seconds"} <= score.keys() and score["size"] == 8
    assert "Scores of tiny" in (tmp_path / "runs/eval-tiny/report.html").read_text()
    assert "tiny kNN" in fastvarcon("report", "runs/eval-tiny")
