"""RUN on the command line, for all that it may be; and inputs that do not fit: one line, exit code 2."""

import json
import re

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


def header(**changes) -> dict[str, str]:
    fields = {"encoder": "resnet18", "width": 1 / 16, "small_images": True, "size": 16, "eval_resize": 18}
    fields |= {"mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bilinear"}
    return {"format": "pt", "fastvarcon": json.dumps({**fields, **changes})}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"width": 60.0}, "does not fit the architecture: conv1.weight is 4 x 3 x 3 x 3, not 3840 x 3 x 3 x 3"),
        ({"width": 1e9}, "--model.width must be positive and at most 64"),
        ({"width": "1"}, "model.width has a value that no version"),
        ({"width": float("nan")}, "model.width has a value that no version"),
        ({"encoder": ["resnet18"]}, "model.encoder has a value"),
        ({"encoder": "vgg"}, "--model.encoder vgg is not known"),
        (
            {
                "encoder": "timm/vit_giant_patch14_224",
                "width": 1.0,
                "small_images": False,
                "size": 224,
                "eval_resize": 256,
            },
            "lacks",
        ),
        ({"size": 10**6}, "--data.size must lie between 1 and 4096"),
        ({"size": 10**400}, "data.size has a value"),
        ({"eval_resize": 8}, "--data.eval-resize (8) must lie between"),
        ({"mean": [0.5, 0.5]}, "data.mean has a value"),
        ({"std": [0, 0, 0]}, "--data.std must be positive"),
        ({"interpolation": "lanczos"}, "data.interpolation has a value"),
        ({"more": 1}, "its header does not say encoder, width"),
    ],
)
def test_a_header_is_not_believed(encoder_file, tmp_path, changes, message, monkeypatch):
    """Neither its types nor its sizes; what does not fit the file is refused before the network takes memory."""
    if str(changes.get("encoder")).startswith("timm/"):
        pytest.importorskip("timm", reason="timm is not installed")
    made = []
    monkeypatch.setattr(torch.nn.Conv2d, "reset_parameters", lambda conv: made.append(conv.weight.device.type))
    save_file(load_file(encoder_file), tmp_path / "model.safetensors", header(**changes))
    with pytest.raises(UserError) as refused:
        resolve(str(tmp_path), None).build(16)
        _ = resolve(str(tmp_path), None).settings
    assert message in str(refused.value) and "\n" not in str(refused.value) and set(made) <= {"meta"}


@pytest.mark.parametrize("text", ["{", "[]", "5", "null", "[" * 100_000, '{"width": 1' + "0" * 5000 + "}"])
def test_a_header_that_is_no_json_object(encoder_file, tmp_path, text):
    save_file(load_file(encoder_file), tmp_path / "model.safetensors", {"fastvarcon": text})
    with pytest.raises(UserError, match="is not an encoder that `fastvarcon export` wrote"):
        resolve(str(tmp_path), None).settings  # noqa: B018


def test_weights_whose_sizes_are_of_no_network(encoder_file, tmp_path):
    """The stem of a file of weights tells a width: what else the file holds has to be of that width too."""
    state = load_file(encoder_file)
    for change, message in [
        (
            {"conv1.weight": torch.zeros(4000, 3, 3, 3)},
            "does not fit the architecture: conv1|bn1.weight is 4, not 4000",
        ),
        ({"conv1.weight": torch.zeros(9)}, "does not hold a ResNet"),
        ({"conv1.weight": torch.zeros(0, 3, 3, 3)}, "does not hold a ResNet"),
        ({"conv1.weight": torch.zeros(4, 3, 3, 3, dtype=torch.bool)}, "holds torch.bool"),
        ({"conv1.weight": torch.zeros(4, 3, 3, 3, dtype=torch.int8)}, "holds torch.int8"),
    ]:
        save_file(state | change, tmp_path / "w.safetensors")
        with pytest.raises(UserError, match=message):
            Target("file", tmp_path / "w.safetensors").build(16)


def test_features_that_are_not_finite_are_refused(fastvarcon, encoder_file, digits, tmp_path):
    state = load_file(encoder_file)
    for value in (torch.nan, 1e30):
        save_file(state | {"bn1.bias": torch.full_like(state["bn1.bias"], value)}, tmp_path / "w.safetensors")
        data = ("--data.train", digits[0], "--data.val", digits[1], "--data.size", "8", "--out", tmp_path / "out")
        said = fastvarcon("eval", "knn", tmp_path / "w.safetensors", *data, code=2)
        assert "makes features that are not finite of 1,437 of the 1,437 images" in said and "image 0 first" in said
    assert not (tmp_path / "out").exists()


def test_scores_are_printed_before_they_cannot_be_written(monkeypatch, capsys, encoder_file, digits, tmp_path):
    """And the features, which a later evaluation would make again, are no reason to stop."""
    from fastvarcon import cli

    (tmp_path / "file").touch()
    data = ["--data.train", digits[0], "--data.val", digits[1], "--data.size", "8", "--out", tmp_path / "file"]
    monkeypatch.setattr("sys.argv", ["fastvarcon", "eval", "knn", *map(str, [encoder_file, *data])])
    with pytest.raises(SystemExit) as left:
        cli.main()
    said = capsys.readouterr()
    assert left.value.code == 2 and "knn on encoder: top-1" in said.out
    assert "the features are not kept" in said.err
    assert re.search(
        r"^error: \S*file/eval/knn\.json cannot be written \(Not a directory\): .*--out\n$", said.err, re.M
    )


def test_held_out_classes_may_have_another_order(fastvarcon, encoder_file, digits, tmp_path):
    """Labels are numbers in a file; they meet by the names of the classes."""
    whole, path = Beton(digits[1]), tmp_path / "reversed.beton"
    with BetonWriter(path, len(whole), whole.classes[::-1]) as writer:
        for i in range(len(whole)):
            writer.add(Record(bytes(whole.record(i)), RAW, 8, 8), 9 - int(whole.labels[i]), int(whole.hashes[i]))
    scores = []
    for val in (digits[1], path):
        out = tmp_path / f"{val.stem}-scores"
        data = ("--data.train", digits[0], "--data.val", val, "--data.size", "8", "--out", out)
        fastvarcon("eval", "knn", encoder_file, *data)
        scores.append(json.loads((out / "eval" / "knn.json").read_text())["top1_by_k"])
    assert scores[0] == scores[1] and scores[0]["20"] > 0.5
