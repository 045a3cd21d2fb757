"""What SupCon is measured against computes SupCon."""

import csv

import pytest
import torch

from fastvarcon.bench import contrastive, varcon
from fastvarcon.bench.timing import Times
from fastvarcon.bench.varcon import BASELINE, Job, loss_and_gradient
from fastvarcon.commands.bench_kernels import kernels


@pytest.mark.parametrize("form", [contrastive.naive, contrastive.metric_learning])
@pytest.mark.parametrize("regime", ["ordinary", "collapsed"])
def test_value_and_gradient_are_the_truth(form, regime):
    if form is contrastive.metric_learning:
        pytest.importorskip("pytorch_metric_learning", reason="pytorch-metric-learning is not installed")
    job = Job(rows=50, dim=8, classes=5, dtype="float32", device="cpu", threads=1)
    result = loss_and_gradient(form, *job.data(regime), job.classes)
    for ours, exactly in zip(result, contrastive.truth(*job.data(regime), job.classes), strict=True):
        torch.testing.assert_close(ours.double(), exactly, rtol=1e-4, atol=1e-6)


def test_all_forms_are_listed_and_the_bound_is_that_of_the_products():
    assert list(contrastive.forms("cuda")) == [
        BASELINE, "reference, torch.compile", "pytorch-metric-learning", "fastvarcon closed", "fastvarcon triton",
    ]  # fmt: skip
    job = Job(16384, 128, 100, "bfloat16", "cuda", 0)
    assert contrastive.bound_ms(job) == pytest.approx(1000 * 6 * 16384**2 * 128 / 790e12)


def test_command_writes_rows_and_says_who_is_how_fast(monkeypatch, tmp_path, capsys):
    """With times as given: processes that measure are tested beside VarCon's."""
    taken = {BASELINE: [0.8, 1.0, 1.2], "fastvarcon closed": [0.4, 0.5, 0.6]}
    monkeypatch.setattr(varcon, "measure_calls", lambda setups, *_, **__: {name: Times(taken[name]) for name in setups})
    table, picture = tmp_path / "rows.csv", tmp_path / "chart.png"
    kernels(contrastive=True, device="cpu", shapes=("60x16x7",), only=("fastvarcon",), csv=table, plot=picture)
    rows = list(csv.DictReader(table.read_text().splitlines()))
    assert [row["competitor"] for row in rows] == [BASELINE, "fastvarcon closed"] and picture.exists()
    assert all(float(row[f"gradient_error_{r}"]) < 1e-4 for row in rows for r in ("ordinary", "collapsed"))
    assert "fastvarcon closed at N=60 D=16 C=7: 2.00x the reference in time" in capsys.readouterr().out
