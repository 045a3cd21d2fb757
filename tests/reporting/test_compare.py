"""Runs compared: groups by settings, tests over training seeds against scipy's."""

import json

import pytest
from scipy import stats

from fastvarcon.config import Config, LossConfig, TrainConfig
from fastvarcon.errors import UserError
from fastvarcon.reporting import compare as comparing
from fastvarcon.reporting.compare import compare_table, write_page
from fastvarcon.reporting.scored import read_scored


def compare(runs, command):
    return comparing.compare([read_scored(run) for run in runs], command)


@pytest.fixture
def make_run(tmp_path):
    def make(name: str, top1: float, seed: int = 0, eps: float = 0.02, scores=("linear", "knn")):
        run = tmp_path / name
        (run / "eval").mkdir(parents=True)
        Config(loss=LossConfig(eps=eps), train=TrainConfig(seed=seed), out=run).save(run / "config.json")
        for stem in scores:
            score = {"name": stem, "features": "encoder", "title": name, "top1": top1, "protocol": "p", "num_val": 9}
            score |= {"command": f"fastvarcon eval {stem} {name}", "seed": 0, "seconds": 1.0}
            (run / "eval" / f"{stem}.json").write_text(json.dumps(score))
        return run

    return make


def test_same_seeds_are_paired(make_run):
    a, b = [0.70, 0.72, 0.71], [0.68, 0.71, 0.69]
    runs = [make_run(f"a{s}", x, s) for s, x in enumerate(a)] + [make_run(f"b{s}", x, s, 0.0) for s, x in enumerate(b)]
    result = compare(runs, "command")
    assert [group["name"] for group in result["groups"]] == ["VarCon, eps 0.02", "VarCon, eps 0.0"]
    row = result["tests"][0]
    assert row["test"] == "paired t, same seeds" and row["p"] == pytest.approx(stats.ttest_rel(a, b).pvalue)
    assert row["difference"] == pytest.approx(0.01667, abs=1e-4) and len(result["tests"]) == 2


def test_other_seeds_are_tested_by_welch(make_run):
    a, b = [0.70, 0.72, 0.71], [0.68, 0.71]
    runs = [make_run(f"a{s}", x, s) for s, x in enumerate(a)] + [make_run(f"b{s}", x, s, 0.0) for s, x in enumerate(b)]
    row = compare(runs, "")["tests"][0]
    assert row["test"] == "Welch t" and row["p"] == pytest.approx(stats.ttest_ind(a, b, equal_var=False).pvalue)


def test_scores_without_spread_are_not_tested(make_run):
    runs = [make_run(f"a{s}", 0.7, s) for s in range(2)] + [make_run(f"b{s}", 0.6, s, 0.0) for s in range(2)]
    assert compare(runs, "")["tests"][0]["why_not"] == "no spread over the seeds"


def test_one_run_is_not_tested(make_run, tmp_path):
    result = compare([make_run("a", 0.7), make_run("b", 0.6, eps=0, scores=("linear",))], "fastvarcon eval compare a b")
    [row] = result["tests"]
    assert row["p"] is None and "one run in a group" in row["why_not"] and result["scores"] == ["linear"]
    write_page(result, tmp_path / "c.html")
    page = (tmp_path / "c.html").read_text()
    assert "70.00%" in page and "one run in a group" in page and "fastvarcon eval compare a b" in page
    assert json.loads((tmp_path / "c.json").read_text())["scores"] == ["linear"]
    assert compare_table(result).row_count == 2


def test_folders_that_cannot_be_compared(make_run, tmp_path):
    with pytest.raises(UserError, match="has no scores"):
        compare([make_run("none", 0.5, scores=()), make_run("a", 0.5)], "")
    with pytest.raises(UserError, match="no score in common"):
        compare([make_run("b", 0.5, scores=("knn",)), make_run("c", 0.5, eps=0, scores=("linear",))], "")
    (tmp_path / "a" / "encoder.safetensors").write_bytes(b"x")
    score = json.loads((tmp_path / "a" / "eval" / "knn.json").read_text())
    (tmp_path / "a" / "eval" / "knn.json").write_text(json.dumps(score | {"encoder_sha256": "0"}))
    (tmp_path / "a" / "eval" / "linear.json").unlink()
    with pytest.raises(UserError, match="of an earlier encoder"):
        compare([tmp_path / "a", tmp_path / "b"], "")
