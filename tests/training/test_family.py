"""Whole runs with other losses than VarCon: heads, samplers, the monitor, and their report."""

import json

import pytest
from safetensors.torch import load_file

from fastvarcon.config import Config, DataConfig, LossConfig, ModelConfig, MonitorConfig, SamplingConfig, TrainConfig
from fastvarcon.data.beton import RAW, Beton
from fastvarcon.data_prep.beton_writer import BetonWriter
from fastvarcon.data_prep.record import Record
from fastvarcon.errors import UserError
from fastvarcon.reporting.html import write_report
from fastvarcon.run_folder import read_metrics
from fastvarcon.training.trainer import train


def config_of(digits, out, loss: LossConfig, **groups) -> Config:
    data = DataConfig(train=digits[0], policy="crop", size=8, eval_resize=8)
    model = groups.pop("model", ModelConfig("resnet18", width=0.125, small_images=True, head_dim=16))
    settings = TrainConfig(1, 128, lr=0.05, warmup_epochs=0, device="cpu", threads=1, log_every=2)
    return Config(data, model, loss, settings, out=out, **groups)


def test_nscl_with_everything_around_it(digits, tmp_path):
    model = ModelConfig("resnet18", width=0.125, small_images=True, head_dim=16, head_relu=True)
    groups = {"monitor": MonitorConfig(nscl=True), "sampling": SamplingConfig(bind=True), "model": model}
    config = config_of(digits, tmp_path / "run", LossConfig("nscl"), **groups)
    train(config)
    rows = read_metrics(tmp_path / "run" / "metrics.jsonl")
    assert {"loss", "anchors", "dcl_tau1", "nscl_tau1", "nscl_gap", "nscl_bound"} <= rows[0].keys()
    assert all(0 < row["nscl_gap"] < row["nscl_bound"] and row["anchors"] == 1 for row in rows)
    page = write_report(tmp_path / "run").read_text()
    assert "NSCL, resnet18" in page and "Gap of DCL and NSCL" in page and "tau2</h" not in page
    train(Config.load(tmp_path / "run" / "config.json"))  # the same run again


def test_cross_entropy_trains_a_classifier_on_the_features(digits, tmp_path):
    train(config_of(digits, tmp_path / "run", LossConfig("cross_entropy", label_smoothing=0.1)))
    rows = read_metrics(tmp_path / "run" / "metrics.jsonl")
    assert rows[-1]["loss"] < rows[0]["loss"] and rows[-1]["batch_top1"] > rows[0]["batch_top1"]
    stored = load_file(tmp_path / "run" / "checkpoints" / "last" / "checkpoint.safetensors")
    assert stored["/model/head.weight"].shape == (10, 64)


def test_ssem_says_whether_classes_collapse(digits, tmp_path, capsys):
    train(config_of(digits, tmp_path / "run", LossConfig("ssem", alpha=0.1, temperature=0.5)))
    assert "ssem: --loss.alpha 0.1, threshold 0.575: up to it classes collapse to points" in capsys.readouterr().out


def test_unlabelled_images_do_where_no_label_is_asked_for(digits, tmp_path):
    whole, path = Beton(digits[0]), tmp_path / "unlabelled.beton"
    with BetonWriter(path, 140, whole.classes) as writer:
        for i in range(140):
            writer.add(Record(bytes(whole.record(i)), RAW, 8, 8), -1, int(whole.hashes[i]))
    files = (path, digits[1])
    summary = train(config_of(files, tmp_path / "run", LossConfig("kcl")))
    assert summary["epochs"] == 1
    for groups, why in (
        ({"loss": LossConfig("supcon")}, "--loss.name supcon needs"),
        ({"loss": LossConfig("kcl"), "monitor": MonitorConfig(nscl=True)}, "--monitor.nscl needs"),
        ({"loss": LossConfig("kcl"), "sampling": SamplingConfig(bind=True)}, "--sampling.bind needs"),
    ):
        with pytest.raises(UserError, match=f"has unlabelled images, and {why}"):
            train(config_of(files, tmp_path / "other", **groups))


def test_clop_needs_room_for_its_prototypes(digits, tmp_path):
    model = ModelConfig("resnet18", width=0.125, small_images=True, head_dim=8)
    with pytest.raises(UserError, match="clop: 10 orthogonal prototypes do not fit into 8 columns"):
        train(config_of(digits, tmp_path / "run", LossConfig("clop"), model=model))
    config = config_of(digits, tmp_path / "run", LossConfig("clop"))
    train(config)
    assert json.loads((tmp_path / "run" / "config.json").read_text())["loss.clop_base"] == "simclr"
    assert "prototype_cosine" in read_metrics(tmp_path / "run" / "metrics.jsonl")[0]
