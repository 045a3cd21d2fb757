"""What a run lets people see: histograms, trackers, a trace, held-out accuracy by two rules, and the report of them."""

import json

import numpy as np
import pytest
import torch

from fastvarcon.config import Config, DataConfig, LossConfig, ModelConfig, TrainConfig
from fastvarcon.errors import UserError
from fastvarcon.evaluation.knn import nearest_mean
from fastvarcon.reporting.html import write_report
from fastvarcon.run_folder import read_metrics
from fastvarcon.training.histograms import BINS, Histograms
from fastvarcon.training.trackers import require_packages
from fastvarcon.training.trainer import train


@pytest.fixture(scope="module")
def watched(digits, tmp_path_factory):
    """A run of two epochs, eleven steps each, with TensorBoard and a trace of three steps."""
    run = tmp_path_factory.mktemp("runs") / "watched"
    data = DataConfig(train=digits[0], val=digits[1], policy="crop", size=8, eval_resize=8, workers=1)
    model = ModelConfig("resnet18", width=0.125, small_images=True)
    settings = TrainConfig(2, 128, lr=0.1, warmup_epochs=1, device="cpu", threads=1, trackers="tensorboard", profile=3)
    train(Config(data, model, train=settings, out=run))
    return run


def test_every_row_of_an_epoch_is_counted(watched):
    epochs = [row for row in read_metrics(watched / "metrics.jsonl") if row["kind"] == "epoch"]
    assert len(epochs) == 2
    for row in epochs:
        for name, low, high in (("tau2", 0.08, 0.12), ("confidence", 0.0, 1.0)):
            counts = np.array(row[f"{name}_histogram"])
            assert counts.sum() == 11 * 128 * 2
            middles = low + (np.arange(BINS) + 0.5) * (high - low) / BINS
            assert (counts * middles).sum() / counts.sum() == pytest.approx(row[name], abs=(high - low) / BINS)


def test_tensorboard_shows_the_figures_of_the_metrics(watched):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(watched / "trackers" / "fastvarcon")).Reload()
    rows = read_metrics(watched / "metrics.jsonl")
    for prefix, kind in (("", "step"), ("per_epoch/", "epoch")):
        for name in ("loss", "tau2", "views_per_second"):
            shown = {event.step: event.value for event in events.Scalars(prefix + name)}
            assert shown == {row["step"]: pytest.approx(row[name], rel=1e-5) for row in rows if row["kind"] == kind}
    assert len(events.Scalars("per_epoch/val_centroid_top1")) == 2


def test_trace_holds_the_steps_asked_for(watched):
    trace = json.loads((watched / "profile" / "trace.json").read_text())
    names = [event.get("name", "") for event in trace["traceEvents"]]
    assert sum(name.startswith("ProfilerStep#") for name in names) == 3 and "aten::convolution_backward" in names


def test_report_draws_the_spread(watched):
    page = write_report(watched).read_text()
    assert "Spread of tau2" in page and "Spread of confidence" in page


def test_histogram_against_numpy():
    generator = torch.Generator().manual_seed(0)
    histograms, rows = Histograms(LossConfig(tau1=0.5, eps=0.1), torch.device("cpu"), None), []
    for count in (100, 7):
        rows.append(0.4 + 0.2 * torch.rand(count, generator=generator, dtype=torch.float64))
        histograms.add({"tau2": rows[-1], "nll": rows[-1]})
    found = histograms.read()
    assert found == {"tau2_histogram": np.histogram(torch.cat(rows).numpy(), BINS, (0.4, 0.6))[0].tolist()}
    histograms.add({"tau2": torch.tensor([0.6, 0.4, 0.61])})  # the ends belong to it, rounding does not lose a row
    assert histograms.read()["tau2_histogram"] == [1, *[0] * (BINS - 2), 2]


def test_constant_tau2_is_left_out():
    histograms = Histograms(LossConfig(eps=0), torch.device("cpu"), None)
    histograms.add({"tau2": torch.full((3,), 0.1), "confidence": torch.full((3,), 0.5)})
    assert list(histograms.read()) == ["confidence_histogram"]


def test_nearest_mean_against_scikit_learn():
    from sklearn.neighbors import NearestCentroid
    from sklearn.preprocessing import normalize

    rng = np.random.default_rng(0)
    x, y, query = rng.normal(size=(60, 5)), rng.integers(0, 4, 60), rng.normal(size=(40, 5))
    means = NearestCentroid().fit(normalize(x), y).centroids_
    expected = (normalize(query) @ normalize(means).T).argmax(1)
    found = nearest_mean(*(torch.from_numpy(a) for a in (x, y, query)), num_classes=6)
    assert found.tolist() == expected.tolist()


@pytest.mark.parametrize(
    ("trackers", "message"),
    [("tensorboard,aim", "choose from tensorboard, wandb, mlflow"), ("wandb", "pip install wandb")],
)
def test_trackers_that_cannot_be(monkeypatch, trackers, message):
    monkeypatch.setattr("fastvarcon.training.trackers.importlib.util.find_spec", lambda name: None)
    config = Config(DataConfig(train="x"), train=TrainConfig(trackers=trackers))
    with pytest.raises(UserError, match=message):
        config.validate()
        require_packages(config)
