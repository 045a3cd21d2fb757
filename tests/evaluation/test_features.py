import dataclasses

import pytest
import torch

from fastvarcon.config import DataConfig
from fastvarcon.data.backends import open_backend
from fastvarcon.errors import UserError
from fastvarcon.evaluation import features
from fastvarcon.models.encoders import build_encoder

DATA = DataConfig(size=16, eval_resize=18)
CPU = torch.device("cpu")


@pytest.fixture
def backend(image_folder):
    backend = open_backend("folder", image_folder, 2)
    yield backend
    backend.close()


def get(backend, encoder, cache, name="a", data=DATA):
    return features.encoder_features(encoder, name, backend, data, CPU, cache)


def test_features_are_those_of_the_encoder_in_dataset_order(backend, tmp_path, monkeypatch):
    encoder = build_encoder("resnet18", width=0.125, small_images=True)
    whole = get(backend, encoder, tmp_path / "one")
    monkeypatch.setattr(features, "BATCH", 4)
    parts = get(backend, encoder, tmp_path / "two")
    assert whole.x.shape == (15, encoder.feature_dim) and whole.labels.tolist() == backend.labels.tolist()
    assert torch.allclose(whole.x, parts.x, atol=1e-5)
    assert encoder.training, "the encoder is left as it was"


def test_second_call_reads_the_cache_and_changes_miss_it(backend, image_folder, tmp_path, monkeypatch):
    encoder = build_encoder("resnet18", width=0.125, small_images=True)
    first = get(backend, encoder, tmp_path)
    calls = []
    real = features.extract
    monkeypatch.setattr(features, "extract", lambda *args: calls.append(1) or real(*args))
    assert torch.equal(get(backend, encoder, tmp_path).x, first.x) and not calls
    get(backend, encoder, tmp_path, data=dataclasses.replace(DATA, eval_resize=20))
    get(backend, encoder, tmp_path, data=dataclasses.replace(DATA, interpolation="bicubic"))
    (image_folder / "ant" / "0.jpg").touch()
    get(backend, encoder, tmp_path)
    assert len(calls) == 3 and len(list(tmp_path.glob("a-*.safetensors"))) == 4
    get(backend, encoder, tmp_path, name="other encoder")
    assert len(calls) == 4 and not list(tmp_path.glob("a-*.safetensors")), "features of an earlier encoder go"


def test_torn_cache_is_made_again(backend, tmp_path):
    encoder = build_encoder("resnet18", width=0.125, small_images=True)
    cache = tmp_path / "cache"
    first = get(backend, encoder, cache)
    [file] = cache.iterdir()
    file.write_bytes(file.read_bytes()[:100])
    assert torch.equal(get(backend, encoder, cache).x, first.x)


def test_pixels_are_the_normalised_views_at_32_px_at_most(backend):
    assert features.pixel_features(backend, DATA).x.shape == (15, 3 * 16 * 16)
    assert features.pixel_features(backend, DataConfig()).x.shape == (15, 3 * 32 * 32)


def test_pairs_that_do_not_fit():
    def made(classes, labels):
        return features.Features(torch.zeros(len(labels), 2), torch.tensor(labels), classes)

    features.check_pair(made(["a", "b"], [0, 1]), made(["a", "b"], [1]))
    with pytest.raises(UserError, match=r"different classes.*'c' in only one"):
        features.check_pair(made(["a", "b"], [0]), made(["a", "b", "c"], [1]))
    with pytest.raises(UserError, match=r"--data\.val has unlabelled"):
        features.check_pair(made(["a", "b"], [0]), made(["a", "b"], [-1]))
