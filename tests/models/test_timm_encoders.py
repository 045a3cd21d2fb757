"""timm's networks as encoders: against timm itself, and what is said of those that cannot be built."""

import sys

import pytest
import torch

from fastvarcon.errors import UserError
from fastvarcon.models.encoders import build_encoder
from fastvarcon.models.timm_encoders import draws_at_random, require_timm

timm = pytest.importorskip("timm", reason="timm is not installed")
VIT, RESNET = "timm/test_vit", "timm/test_resnet"


@pytest.mark.parametrize(("name", "options"), [(VIT, {"img_size": 32}), (RESNET, {})])
def test_it_is_the_network_of_timm(name, options):
    encoder = build_encoder(name, size=32)
    theirs = timm.create_model(name.removeprefix("timm/"), num_classes=0, **options)
    theirs.load_state_dict(encoder.state_dict(), strict=True)
    images = torch.randn(2, 3, 32, 32)
    features = encoder.eval()(images)
    assert torch.equal(features, theirs.eval()(images))
    assert features.shape == (2, encoder.feature_dim)


def test_features_may_be_wider_than_timm_says():
    encoder = build_encoder("timm/mobilenetv3_small_050", size=32)  # a layer behind the pooling makes 1024 of its 288
    assert encoder.feature_dim == 1024 == encoder.eval()(torch.randn(1, 3, 32, 32)).shape[1]


def test_a_vision_transformer_for_several_sizes_has_the_weights_of_one():
    one, several = build_encoder(VIT, size=32), build_encoder(VIT, size=32, sizes=(16, 32, 48))
    one.load_state_dict(several.state_dict(), strict=True)
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(one.eval()(images), several.eval()(images))
    assert several(torch.randn(2, 3, 48, 48)).shape == (2, one.feature_dim)


def test_paths_are_dropped_in_training_alone():
    torch.manual_seed(0)
    encoder, images = build_encoder(VIT, size=32, drop_path=0.5), torch.randn(8, 3, 32, 32)
    assert draws_at_random(encoder) and not draws_at_random(build_encoder(VIT, size=32))
    assert not torch.equal(encoder(images), encoder(images))
    assert torch.equal(encoder.eval()(images), encoder(images))


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("timm/test_vitt", {}, r"timm has no model 'test_vitt': give a name such as test_vit"),
        ("timm/hf-hub:timm/resnet18", {}, "timm has no model"),
        (VIT, {"size": 8}, r"test_vit does not take images of 8 x 8 pixels .*: give another --data.size"),
        (VIT, {"sizes": (40,)}, r"40 x 40 pixels .*: give another --train.resolution"),
        ("timm/gmlp_ti16_224", {"sizes": (16,)}, "leave out --train.resolution"),
        ("timm/ghostnet_050", {"drop_path": 0.1}, "has no paths to drop: leave out --model.drop-path"),
    ],
)
def test_what_cannot_be_built(name, settings, message):
    with pytest.raises(UserError, match=message):
        build_encoder(name, **{"size": 32, **settings})


def test_without_timm(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(UserError, match=r"timm/test_vit needs the timm package: pip install 'fastvarcon\[timm\]'"):
        require_timm(VIT)
