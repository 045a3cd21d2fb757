"""`fastvarcon export`: every form is loaded by the library it is made for, which gives the encoder's features."""

import json

import pytest
import torch
import torchvision
from safetensors.torch import load_file, save_file
from torch import nn

import fastvarcon
from fastvarcon.config import Config, DataConfig, ModelConfig
from fastvarcon.errors import UserError
from fastvarcon.export.folder import export_run
from fastvarcon.models.encoders import build_encoder, identify_encoder
from fastvarcon.models.exported import find_encoder

STOCK = ModelConfig("resnet18")
NARROW = ModelConfig("resnet18", width=0.125, small_images=True)
VIT = ModelConfig("timm/test_vit")
MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)


@pytest.fixture
def make_run(tmp_path):
    """A run folder as a training leaves it, with one score; its batch norms have statistics of their own."""

    def make(model: ModelConfig, size: int):
        run = tmp_path / "run"
        (run / "eval").mkdir(parents=True)
        data = DataConfig(val=tmp_path / 'held "out".beton', size=size, eval_resize=size + 4, mean=MEAN, std=STD)
        data.interpolation = "bicubic"
        Config(data=data, model=model, out=run).save(run / "config.json")
        torch.manual_seed(0)
        encoder = build_encoder(model.encoder, width=model.width, small_images=model.small_images, size=size)
        encoder.train()(torch.randn(8, 3, size, size))
        save_file(encoder.state_dict(), run / "encoder.safetensors")
        score = {"name": "knn", "features": "encoder", "encoder_sha256": identify_encoder(run)[1], "top1": 0.625}
        score |= {"seed": 0, "seconds": 1.0}
        score |= {"protocol": "cosine kNN, majority vote, k = 20", "num_val": 360, "command": "fastvarcon eval knn r"}
        score |= {"seed": 0, "seconds": 1.5}
        (run / "eval" / "knn.json").write_text(json.dumps(score))
        return run, encoder.eval(), torch.randn(4, 3, size, size)

    return make


def export(run, target, out):
    export_run(run, target, out, f"fastvarcon export {run} --to {target}")
    assert not out.with_name(out.name + ".partial").exists()
    card = (out / "README.md").read_text()
    assert "62.50%" in card and "fastvarcon eval knn r" in card and "--model.encoder" in card
    assert f"--to {target}`" in card and str(list(MEAN)) in card and f'load_encoder("{out.name}")' in card
    return card


def test_torchvision_loads_it_strictly(make_run, tmp_path):
    run, encoder, images = make_run(STOCK, 64)
    card = export(run, "torchvision", tmp_path / "out")
    stock = torchvision.models.resnet18()
    stock.fc = nn.Identity()
    stock.load_state_dict(load_file(tmp_path / "out" / "model.safetensors"), strict=True)
    assert torch.equal(stock.eval()(images), encoder(images))
    assert _run_snippet(card, 0, tmp_path)(images).equal(encoder(images))


def test_timm_loads_it_strictly_and_prepares_images_alike(make_run, tmp_path):
    timm = pytest.importorskip("timm")
    run, encoder, images = make_run(STOCK, 64)
    card = export(run, "timm", tmp_path / "out")
    model = timm.create_model("resnet18", num_classes=0)
    model.load_state_dict(load_file(tmp_path / "out" / "model.safetensors"), strict=True)
    torch.testing.assert_close(model.eval()(images), encoder(images))
    torch.testing.assert_close(_run_snippet(card, 0, tmp_path)(images), encoder(images))
    made = timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True)
    data = timm.data.resolve_model_data_config(made)
    assert tuple(data["mean"]) == MEAN and tuple(data["std"]) == STD and tuple(data["input_size"]) == (3, 64, 64)
    resize, crop, *_ = timm.data.create_transform(**data, is_training=False).transforms
    assert resize.size == 68 and tuple(crop.size) == (64, 64)


def test_onnx_takes_any_batch(make_run, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    run, encoder, images = make_run(NARROW, 8)
    export(run, "onnx", tmp_path / "out")
    session = onnxruntime.InferenceSession(str(tmp_path / "out" / "encoder.onnx"), providers=["CPUExecutionProvider"])
    for batch in (images, images[:1]):
        features = torch.from_numpy(session.run(["features"], {"images": batch.numpy()})[0])
        torch.testing.assert_close(features, encoder(batch), rtol=1e-4, atol=1e-5)
    assert torch.equal(fastvarcon.load_encoder(tmp_path / "out")(images), encoder(images))


@pytest.mark.parametrize(("model", "size"), [(STOCK, 64), (NARROW, 8), (VIT, 32)])
def test_safetensors_tell_how_to_build_and_feed_the_encoder(make_run, tmp_path, model, size):
    if model is VIT:
        pytest.importorskip("timm", reason="timm is not installed")
    run, encoder, images = make_run(model, size)
    export(run, "safetensors", tmp_path / "out")
    moved = (tmp_path / "out" / "model.safetensors").rename(tmp_path / "alone.safetensors")
    assert torch.equal(fastvarcon.load_encoder(moved)(images), encoder(images))
    spec, _ = find_encoder(moved)
    assert spec.interpolation == "bicubic" and spec == find_encoder(run)[0]
    assert (spec.size, spec.eval_resize, spec.mean) == (size, size + 4, MEAN)


def test_hub_folder_is_a_model_card_with_its_scores(make_run, tmp_path):
    hub = pytest.importorskip("huggingface_hub")
    run, encoder, images = make_run(STOCK, 64)
    export(run, "hub-folder", tmp_path / "out")
    card = hub.ModelCard.load(tmp_path / "out" / "README.md")
    [score] = card.data.eval_results
    assert score.metric_value == 0.625 and score.dataset_name == 'held "out"' and card.data.library_name == "timm"
    assert Config.load(tmp_path / "out" / "config.run.json").model == STOCK
    assert json.loads((tmp_path / "out" / "scores" / "knn.json").read_text())["top1"] == 0.625
    assert torch.equal(fastvarcon.load_encoder(tmp_path / "out")(images), encoder(images))
    stock = _run_snippet((tmp_path / "out" / "README.md").read_text(), 1, tmp_path)
    assert torch.equal(stock(images), encoder(images))


def test_hub_folder_of_a_network_of_our_own(make_run, tmp_path):
    run, encoder, images = make_run(NARROW, 8)
    card = export(run, "hub-folder", tmp_path / "out")
    assert "timm" not in card and 'library_name: "fastvarcon"' in card
    assert torch.equal(_run_snippet(card, 0, tmp_path)(images), encoder(images))


@pytest.mark.parametrize("target", ["torchvision", "timm"])
def test_networks_that_the_target_lacks(make_run, tmp_path, target):
    run, *_ = make_run(NARROW, 8)
    with pytest.raises(UserError, match=r"has no resnet18 with width 0.125 and the small-image stem: .*onnx"):
        export(run, target, tmp_path / "out")
    assert not list(tmp_path.glob("out*"))


@pytest.mark.parametrize("target", ["timm", "hub-folder"])
def test_a_network_of_timm_goes_back_to_timm(make_run, tmp_path, target):
    timm = pytest.importorskip("timm")
    run, encoder, images = make_run(VIT, 32)
    card = export(run, target, tmp_path / "out")
    theirs = timm.create_model("test_vit", num_classes=0, img_size=32)
    theirs.load_state_dict(load_file(tmp_path / "out" / "model.safetensors"), strict=True)
    torch.testing.assert_close(theirs.eval()(images), encoder(images))
    made = _run_snippet(card, 0, tmp_path)
    torch.testing.assert_close(made(images), encoder(images))
    data = timm.data.resolve_model_data_config(made)
    assert tuple(data["mean"]) == MEAN and tuple(data["input_size"]) == (3, 32, 32) and "torchvision.models" not in card
    assert torch.equal(fastvarcon.load_encoder(tmp_path / "out")(images), encoder(images))


def test_a_network_of_timm_as_onnx_and_not_for_torchvision(make_run, tmp_path):
    for package in ("timm", "onnxscript"):
        pytest.importorskip(package)
    onnxruntime = pytest.importorskip("onnxruntime")
    run, encoder, images = make_run(VIT, 32)
    export(run, "onnx", tmp_path / "onnx")
    session = onnxruntime.InferenceSession(str(tmp_path / "onnx" / "encoder.onnx"), providers=["CPUExecutionProvider"])
    features = torch.from_numpy(session.run(["features"], {"images": images.numpy()})[0])
    torch.testing.assert_close(features, encoder(images), rtol=1e-4, atol=1e-5)
    with pytest.raises(UserError, match="torchvision has no timm/test_vit: export --to timm, onnx"):
        export(run, "torchvision", tmp_path / "out")


def test_nothing_is_overwritten(make_run, tmp_path):
    run, *_ = make_run(NARROW, 8)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").touch()
    with pytest.raises(UserError, match="remove it or give another folder"):
        export(run, "safetensors", tmp_path / "out")
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["mine"]


def test_files_that_are_no_encoders(make_run, tmp_path):
    save_file({"a": torch.zeros(1)}, tmp_path / "foreign.safetensors")
    (tmp_path / "torn.safetensors").write_bytes(b"torn")
    for name in ("foreign", "torn"):
        with pytest.raises(UserError, match="is not an encoder that `fastvarcon export` wrote"):
            fastvarcon.load_encoder(tmp_path / f"{name}.safetensors")
    with pytest.raises(UserError, match="is not a run folder"):
        fastvarcon.load_encoder(tmp_path / "nowhere")
    run, *_ = make_run(NARROW, 8)
    save_file({"a": torch.zeros(1)}, run / "encoder.safetensors")
    with pytest.raises(UserError, match="does not hold the resnet18"):
        fastvarcon.load_encoder(run)


def _run_snippet(card: str, number: int, folder):
    """The encoder that a piece of Python of the card makes, as it stands there, in the folder above the export."""
    code = card.split("```python\n")[1 + number].split("```")[0].replace('"out', f'"{folder}/out')
    code = code.replace("local-dir:out", f"local-dir:{folder}/out")
    names: dict = {}
    exec(code, names)
    return names["encoder"]
