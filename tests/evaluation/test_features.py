"""Features: those of the encoder, in dataset order, cached, the same for any number of processes."""

import contextlib
import dataclasses
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from fastvarcon.config import DataConfig
from fastvarcon.data.backends import open_backend
from fastvarcon.data.loader import Loader
from fastvarcon.errors import UserError
from fastvarcon.evaluation import features
from fastvarcon.evaluation.features import Extractor, Features, Order, check_pair
from fastvarcon.evaluation.images import Images, eval_spec
from fastvarcon.evaluation.job import evaluate
from fastvarcon.evaluation.options import EvalData, Knn
from fastvarcon.evaluation.processes import Processes
from fastvarcon.evaluation.target import Target
from fastvarcon.models.encoders import build_encoder

DATA = DataConfig(size=16, eval_resize=18)
CPU = torch.device("cpu")


@pytest.fixture
def order(image_folder, encoder_file) -> Order:
    return Order(Target("file", encoder_file), Images(image_folder, "folder"), DATA)


@contextlib.contextmanager
def batches_of(folder, batch):
    backend = open_backend("folder", folder, 1)
    with Loader(backend, eval_spec(DATA), global_batch=batch, train=False) as loader:
        yield loader
    backend.close()


def get(order: Order, cache: Path | None = None) -> Features:
    return Extractor(Processes(), 2, cache, order.target).features(order)


def test_features_are_those_of_the_encoder_in_dataset_order(order, encoder_file, image_folder, monkeypatch):
    whole = get(order)
    monkeypatch.setattr(features, "BATCH", 4)
    parts = get(order)
    encoder = build_encoder("resnet18", width=1 / 16, small_images=True)
    encoder.load_state_dict(load_file(encoder_file))
    with batches_of(image_folder, 15) as loader:
        [(views, labels, _)] = loader
    with torch.no_grad():
        expected = encoder.eval()(views)
    assert torch.allclose(whole.x, expected, atol=1e-5) and torch.allclose(parts.x, expected, atol=1e-5)
    assert torch.equal(whole.labels, labels) and whole.classes == ["ant", "bee", "cat"]


def test_extract_leaves_the_encoder_as_it_was(image_folder):
    encoder = build_encoder("resnet18", width=1 / 16, small_images=True).train()
    with batches_of(image_folder, 4) as loader:
        x, labels = features.extract(encoder, loader, CPU)
    assert encoder.training and x.shape == (15, encoder.feature_dim) and len(labels) == 15


def test_second_call_reads_the_cache_and_changes_miss_it(order, image_folder, tmp_path, monkeypatch):
    first = get(order, tmp_path)
    calls = []
    real = features.extract
    monkeypatch.setattr(features, "extract", lambda *args: calls.append(1) or real(*args))
    assert torch.equal(get(order, tmp_path).x, first.x) and not calls
    get(dataclasses.replace(order, data=dataclasses.replace(DATA, eval_resize=20)), tmp_path)
    get(dataclasses.replace(order, data=dataclasses.replace(DATA, interpolation="bicubic")), tmp_path)
    (image_folder / "ant" / "0.jpg").touch()
    get(order, tmp_path)
    assert len(calls) == 3 and len(list(tmp_path.glob("*.safetensors"))) == 4


def test_features_of_an_earlier_encoder_go_and_augmented_ones_are_not_kept(order, encoder_file, tmp_path):
    get(order, tmp_path)
    [old] = tmp_path.glob("*.safetensors")
    other = dataclasses.replace(order, target=Target("architecture", None, "resnet18"))
    get(other, tmp_path)
    [new] = tmp_path.glob("*.safetensors")
    assert new != old
    augmented = dataclasses.replace(order, images=dataclasses.replace(order.images, policy="crop-flip", epoch=3))
    assert not torch.equal(get(augmented, tmp_path).x, get(order).x)
    assert [*tmp_path.glob("*.safetensors")] == [new]


def test_torn_cache_is_made_again(order, tmp_path):
    first = get(order, tmp_path)
    [file] = tmp_path.glob("*.safetensors")
    file.write_bytes(file.read_bytes()[:100])
    assert torch.equal(get(order, tmp_path).x, first.x)


def test_pairs_that_do_not_fit():
    def made(classes, labels):
        return Features(torch.zeros(len(labels), 2), torch.tensor(labels), classes)

    check_pair(made(["a", "b"], [0, 1]), made(["a", "b"], [1]))
    check_pair(made(["a", "b"], [0, 1]), made(["b"], [0]))
    with pytest.raises(UserError, match=r"different classes: 1 of the 3 held-out ones are not .* of training \(c\)"):
        check_pair(made(["a", "b"], [0]), made(["a", "b", "c"], [1]))
    with pytest.raises(UserError, match=r"--data\.val has unlabelled"):
        check_pair(made(["a", "b"], [0]), made(["a", "b"], [-1]))


def test_two_processes_give_the_numbers_of_one(run_ranks, encoder_file, digits, tmp_path):
    """1,437 and 360 images are six batches, the last of them short, and two."""
    data = EvalData(train=digits[0], val=digits[1], size=8, workers=1)
    args = Knn(str(encoder_file), data, out=tmp_path / "one"), tmp_path / "two"
    run_ranks(2, Path(__file__).with_name("ranks_features.py"), args[1], encoder_file, *digits)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        evaluate("knn", args[0], "test")
    finally:
        torch.set_num_threads(threads)
    one, two = (sorted((tmp_path / name / "features").iterdir()) for name in ("one", "two"))
    assert [path.name for path in one] == [path.name for path in two] and len(one) == 2
    for mine, theirs in zip(one, two, strict=True):
        assert torch.equal(load_file(mine)["x"], load_file(theirs)["x"])
        assert torch.equal(load_file(mine)["labels"], load_file(theirs)["labels"])
    one, two = (json.loads((tmp_path / name / "eval" / "knn.json").read_text()) for name in ("one", "two"))
    assert (one.pop("world_size"), two.pop("world_size")) == (1, 2)
    assert all(one[name] == two[name] for name in one.keys() - {"seconds"})
