"""Encoders and heads against torchvision and the sizes of the reference run."""

import pytest
import torch
import torchvision

from fastvarcon.config import ModelConfig
from fastvarcon.errors import UserError
from fastvarcon.models import ContrastiveModel
from fastvarcon.models.encoders import ENCODERS, build_encoder
from fastvarcon.models.heads import build_head


def parameters(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize("name", sorted(ENCODERS))
def test_stock_weights_load_and_give_the_same_features(name):
    torch.manual_seed(0)
    stock, encoder = getattr(torchvision.models, name)(), build_encoder(name)
    encoder.load_state_dict({k: v for k, v in stock.state_dict().items() if not k.startswith("fc.")})
    stock.fc = torch.nn.Identity()
    images = torch.randn(2, 3, 64, 64)
    assert torch.equal(encoder.eval()(images), stock.eval()(images))
    assert encoder.feature_dim == encoder(images).shape[1]


def test_small_image_resnet50_has_the_published_size():
    """23,500,352 parameters, head 4,458,624: docs/maths/varcon.md#the-reference-run."""
    assert parameters(build_encoder("resnet50", small_images=True)) == 23_500_352
    assert parameters(build_head("mlp", 2048)) == 4_458_624


@pytest.mark.parametrize("small_images", [False, True])
@pytest.mark.parametrize(
    ("name", "width", "features"), [("resnet18", 0.25, 128), ("resnet50", 0.5, 1024), ("resnet18", 2, 1024)]
)
def test_width_scales_every_layer(name, width, features, small_images):
    encoder = build_encoder(name, width=width, small_images=small_images)
    assert encoder.feature_dim == features and encoder(torch.randn(2, 3, 32, 32)).shape == (2, features)
    convolutions = parameters(encoder) / parameters(build_encoder(name, small_images=small_images))
    assert convolutions == pytest.approx(width**2, rel=0.03)


def test_small_stem_keeps_the_resolution():
    encoder = build_encoder("resnet18", small_images=True)
    assert encoder.maxpool(encoder.conv1(torch.randn(1, 3, 32, 32))).shape[-2:] == (32, 32)


@pytest.mark.parametrize("head", ["mlp", "linear"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_rows_are_unit_vectors_in_at_least_float32(head, dtype):
    z = build_head(head, 16, dim=5).to(dtype)(torch.randn(4, 16, dtype=dtype))
    assert z.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert torch.allclose(z.norm(dim=1), torch.ones(4, dtype=z.dtype), atol=1e-6)


def test_model_joins_encoder_and_head():
    model = ContrastiveModel(ModelConfig("resnet18", width=0.25, small_images=True, head_dim=7))
    assert model(torch.randn(3, 3, 16, 16)).shape == (3, 7)


def test_relu_keeps_rows_in_the_non_negative_part_of_the_sphere():
    z = build_head("mlp", 16, dim=5, relu=True)(torch.randn(50, 16))
    assert (z >= 0).all() and (z == 0).any()
    norms = z.norm(dim=1)
    assert ((norms - 1).abs() < 1e-6).logical_or(norms == 0).all()


def test_classifier_takes_the_place_of_the_head():
    model = ContrastiveModel(ModelConfig("resnet18", width=0.25, small_images=True), classes=7)
    views = torch.randn(3, 3, 16, 16)
    logits = model(views)
    expected = model.encoder(views) @ model.head.weight.T + model.head.bias
    assert logits.shape == (3, 7) and torch.allclose(logits, expected, atol=1e-5)
    assert model.to(torch.bfloat16).head(torch.randn(2, 128, dtype=torch.bfloat16)).dtype == torch.float32


def test_unknown_names():
    with pytest.raises(UserError, match="resnet18"):
        build_encoder("vgg")
    with pytest.raises(UserError, match="mlp, linear"):
        build_head("deep", 4)
