"""A network of timm's in training: interrupted, resumed and scored from the command line, and what is refused of it."""

import dataclasses
import json
import sys
from pathlib import Path

import pytest
import torch
import tyro
from safetensors.torch import load_file

from fastvarcon import cli, load_encoder
from fastvarcon.bench.doctor import diagnose
from fastvarcon.commands.settings import recipe_defaults
from fastvarcon.config import Config, DataConfig, LossConfig, ModelConfig, TrainConfig
from fastvarcon.errors import UserError
from fastvarcon.losses import build_loss
from fastvarcon.models import ContrastiveModel
from fastvarcon.models.encoders import build_encoder
from fastvarcon.training.distributed import seed_draws
from fastvarcon.training.micro_batch import forward_backward
from fastvarcon.training.network import require_fitting_norms
from fastvarcon.training.signals import StopRequest
from fastvarcon.training.trainer import train

pytest.importorskip("timm", reason="timm is not installed")
RECIPE = Path(__file__).parents[2] / "recipes" / "imagenet_vit.py"


def flags_of(digits, out: Path) -> list[str]:
    """A vision transformer of 4 patches, on views that grow, with paths dropped."""
    text = (
        f"--data.train {digits[0]} --data.val {digits[1]} --out {out} --model.encoder timm/test_vit "
        "--model.drop-path 0.2 --model.head-hidden 0 --data.size 32 --data.eval-resize 32 "
        "--train.epochs 2 --train.warmup-epochs 0 --train.global-batch 479 --train.save-every 1 --train.val-every 0 "
        "--train.device cpu --train.threads 1 --train.ema 0.9 --train.resolution 16:.5,32:.5"
    )
    return text.split()


def parsed(digits, out: Path) -> Config:
    return tyro.cli(Config, default=recipe_defaults(RECIPE), args=flags_of(digits, out))


def test_interrupted_and_resumed_it_ends_with_the_same_bits_and_scores(digits, tmp_path, monkeypatch, call):
    whole = train(parsed(digits, tmp_path / "whole"))
    assert whole["epochs"] == 2
    with monkeypatch.context() as patch:
        patch.setattr(StopRequest, "agreed", lambda *_: "SIGTERM")
        assert train(parsed(digits, tmp_path / "run")) is None  # stops after the first epoch
    done = call(RECIPE, *flags_of(digits, tmp_path / "run"))
    assert done.returncode == 0 and "resuming" in done.stdout and "timm/test_vit, varcon loss" in done.stdout
    one, other = (load_file(tmp_path / name / "encoder.safetensors") for name in ("whole", "run"))
    assert all(torch.equal(one[name], other[name]) for name in one)

    for command in ("knn", "linear"):
        monkeypatch.setattr(sys, "argv", ["fastvarcon", "eval", command, str(tmp_path / "run")])
        cli.main()
        score = json.loads((tmp_path / "run" / "eval" / f"{command}.json").read_text())
        assert 0.2 < score["top1"] <= 1 and score["feature_dim"] == 64
    images = torch.randn(2, 3, 32, 32)
    assert load_encoder(tmp_path / "run")(images).shape == (2, 64)
    monkeypatch.setattr(sys, "argv", ["fastvarcon", "eval", "knn", str(tmp_path / "run" / "checkpoints" / "epoch-001")])
    cli.main()


def test_a_mistake_leaves_no_folder(digits, tmp_path):
    config = parsed(digits, tmp_path / "run")
    config.model.encoder = "timm/test_vitt"
    with pytest.raises(UserError, match="such as test_vit"):
        train(config)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("encoder", "settings", "message"),
    [
        ("timm/test_vit", {"batch_norm": "ghost", "bn_group": 4}, "has no batch norm for --train.batch-norm ghost"),
        ("timm/test_vit", {"batch_norm": "sync"}, "leave it at local"),
        ("timm/test_efficientnet", {"batch_norm": "sync"}, "cannot replace the BatchNormAct2d of timm/test_eff"),
        ("timm/test_resnet", {"micro_batch": 4}, "would split the batches over which timm/test_resnet takes"),
        ("timm/test_vit", {"micro_batch": 4}, None),
        ("timm/test_resnet", {"micro_batch": 4, "batch_norm": "ghost", "bn_group": 4}, None),
    ],
)
def test_settings_of_batch_norm_that_fit(encoder, settings, message):
    config = Config(DataConfig(Path("a"), size=32), ModelConfig(encoder), train=TrainConfig(**settings))
    config.validate()
    network = build_encoder(encoder, size=32)
    if message is None:
        require_fitting_norms(config, network)
    else:
        with pytest.raises(UserError, match=message):
            require_fitting_norms(config, network)


def test_micro_batches_and_dropped_paths_do_not_go_together():
    config = Config(model=ModelConfig("timm/test_vit"), train=TrainConfig(micro_batch=4))
    with pytest.raises(UserError, match=r"--train.micro-batch needs two equal passes, .* use --model.drop-path 0"):
        require_fitting_norms(config, build_encoder("timm/test_vit", size=32, drop_path=0.1))


def test_micro_batches_without_batch_norm_have_the_gradient_of_the_whole():
    torch.manual_seed(0)
    network = ContrastiveModel(ModelConfig("timm/test_vit", head_dim=8), size=16).double()
    loss = build_loss(LossConfig(detach_centroids=False), 3, dim=8)
    views, labels = torch.randn(16, 3, 16, 16).double(), torch.arange(8) % 3
    gradients = []
    for images in (8, 2):
        network.zero_grad()
        forward_backward(network, loss.with_stats, views, labels, images, torch.Tensor.backward)
        gradients.append([parameter.grad.clone() for parameter in network.parameters()])
    torch.testing.assert_close(*gradients, rtol=1e-9, atol=1e-12)


def test_draws_depend_on_the_step_and_the_rank():
    drawn = []
    for key in [(0, 0, 0), (0, 0, 1), (0, 1, 0), (1, 0, 0), (0, 0, 0)]:
        seed_draws(*key)
        drawn.append(torch.rand(1).item())
    assert drawn[0] == drawn[-1] and len(set(drawn)) == 4


def test_doctor_measures_it(digits):
    config = parsed(digits, Path("runs/nowhere"))
    config = dataclasses.replace(config, train=dataclasses.replace(config.train, global_batch=16))
    assert diagnose(config, 1, 0.2, lambda what: None).rates.real > 0
