"""A file of a run that a crash, a disk or an editor has damaged is named and left out; the rest is shown."""

import html
import json
import os
import threading

import pytest
import torch
from safetensors.torch import save_file

from fastvarcon.config import Config, DataConfig
from fastvarcon.errors import UserError
from fastvarcon.evaluation.figures import check, check_details
from fastvarcon.models.encoders import build_spec
from fastvarcon.models.exported import EncoderSpec
from fastvarcon.reporting import html as pages
from fastvarcon.reporting import sections
from fastvarcon.reporting.page import write_page
from fastvarcon.reporting.scored import read_scored
from fastvarcon.run_folder import RunFolder

DAMAGE = [
    ("summary.json", b"{", "cannot be read as JSON"),
    ("summary.json", b"{}", "is not a summary"),
    ("summary.json", b'{"final_loss": 1' + b"0" * 5000 + b"}", "cannot be read as JSON"),
    ("metrics.jsonl", b"5\n5\n", "line 1 is not a row"),
    ("metrics.jsonl", b'{"kind": "step"}\n', "line 1 is not a row"),
    ("metrics.jsonl", b'{"kind": "step", "step": 1, "epoch": 0, "loss": "a"}\n', "line 1 is not a row"),
    ("metrics.jsonl", b"\xff\n", "is not UTF-8 text"),
    ("eval/knn.json", b'{"name": "knn", "features": "pixels", "top1": "a"}', "is not a score"),
    ("eval/knn.json", b"[]", "JSON object"),
    ("eval/knn.json", b"[" * 100_000, "too deeply nested"),
    ("eval/knn.json", b'{"top1": "\xff"}', "is not UTF-8 text"),
    ("config.json", b'{"train.epochs": "many"}', "train.epochs has a value"),
    ("config.json", b'{"model.width": 1e9}', "--model.width must be positive and at most"),
    ("config.json", b'{"model.width": NaN}', "model.width has a value"),
    ("config.json", b'{"data.train_file.x": 1}', "unknown key"),
]


@pytest.mark.parametrize(("file", "content", "message"), DAMAGE)
def test_a_report_names_it_and_shows_the_rest(command, run, file, content, message, monkeypatch):
    monkeypatch.setattr(
        pages, "training_curves", lambda rows, config: {"Adaptive temperature tau2": ""}
    )  # as they are slow
    (run / file).write_bytes(content)
    said = command("report", run)
    assert said.code == 0 and f"left out: {run / file}" in said.err and message in said.err
    page = (run / "report.html").read_text()
    assert html.escape(message) in page and ("62.50%" in page) == ("62.50%" in said.out) == ("knn" not in file)
    assert "Tree of class means" in page and ("Adaptive temperature" in page) == (file[:6] not in ("config", "metric"))


def test_what_is_not_a_file_is_not_waited_for(command, run):
    (run / "eval" / "knn.json").unlink()
    os.mkfifo(run / "eval" / "knn.json")
    (run / "metrics.jsonl").unlink()
    (run / "metrics.jsonl").mkdir()
    said = command("report", run)
    assert said.code == 0 and said.err.count("is not a plain file") == 2


def test_figures_of_another_version_leave_the_headline(command, run):
    score = json.loads((run / "eval" / "knn.json").read_text())
    del score["temperature"]
    (run / "eval" / "knn.json").write_text(json.dumps(score))
    said = command("report", run)
    assert "62.50%" in said.out and "all but its headline (it has no 'temperature')" in said.err
    assert '<section id="knn">' not in (run / "report.html").read_text()


def test_nothing_to_show_is_an_error(command, run):
    for path in (run / "eval").iterdir():
        path.write_text("{")
    (run / "config.json").write_text("{")
    assert "cannot be read as JSON" in command("report", run).err
    assert command("report", run).code == 2 and not (run / "report.html").exists()


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("knn", {"top1_by_k": {"20": 2.0}}),
        ("knn", {"top1_by_k": {"twenty": 0.5}, "weighted_top1_by_k": {"twenty": 0.5}}),
        ("knn", {"weighted_top1_by_k": {}}),
        ("clustering", {"class_tree": [[0, 1, 1.0, 2], [0, 3, 2.0, 3]]}),  # a class joins twice
        ("clustering", {"class_tree": [[0, 4, 1.0, 2], [2, 3, 2.0, 3]]}),  # with what comes later
        ("clustering", {"class_names": ["a"]}),
        ("clustering", {"class_tree": [[0, 1, float("nan"), 2], [2, 3, 2.0, 3]]}),
    ],
)
def test_figures_that_no_chart_could_show(run, name, change):
    score = json.loads((run / "eval" / f"{name}.json").read_text())
    assert check(score) is check_details(score) is None
    assert check(score | change) is None and check_details(score | change)


def test_an_evaluation_goes_on_beside_damaged_files(command, run, digits):
    """The new score is written and shown; the summary, which is damaged, is left as it is."""
    config = Config.load(run / "config.json")
    torch.manual_seed(0)
    save_file(build_spec(EncoderSpec.of_config(config)).state_dict(), run / "encoder.safetensors")
    (run / "summary.json").write_text("{")
    (run / "eval" / "clustering.json").write_text("[]")
    said = command("eval", "knn", run, "--data.train", digits[0], "--data.val", digits[1])
    assert said.code == 0 and "knn on encoder: top-1" in said.out and "95 % interval" in said.out
    assert f"left out: {run / 'eval' / 'clustering.json'}" in said.err and str(run / "summary.json") in said.err
    assert json.loads((run / "eval" / "knn.json").read_text())["num_val"] == 360
    assert (run / "summary.json").read_text() == "{" and '<section id="knn">' in (run / "report.html").read_text()


def test_two_processes_may_write_at_once(run):
    """Each writes its headline and the page: none is lost, and nothing is left over."""
    errors = []

    def evaluate(number: int) -> None:
        try:
            for _ in range(10):
                write_page(run / "report.html", "x" * 100_000)
            RunFolder(run).update_summary({f"knn{number}_top1": 0.5})
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=evaluate, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors and not list(run.rglob("*.partial"))
    assert {f"knn{number}_top1" for number in range(8)} <= RunFolder(run).read_summary().keys()


def test_a_run_of_another_version_keeps_its_scores(run):
    flat = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps(flat | {"data.new": 1}))
    scored = read_scored(run)
    assert scored.config is None and "unknown key 'data.new'" in scored.problems[0] and scored.title_of("knn") == "x"


@pytest.mark.parametrize(
    "settings", [{"size": 4097, "eval_resize": 5000}, {"eval_resize": 20_000}, {"std": (0.0, 1, 1)}]
)
def test_views_that_no_memory_could_hold(settings, tmp_path):
    Config(DataConfig(**{"size": 8, "eval_resize": 8} | settings)).save(tmp_path / "config.json")
    with pytest.raises(UserError, match=r"config\.json: --data\."):
        Config.load(tmp_path / "config.json")


def test_a_tree_that_is_too_deep_is_not_drawn(run):
    """Every class joins the others after the last: scipy's drawing would call itself once for each."""
    score = json.loads((run / "eval" / "clustering.json").read_text())
    count = 1200
    tree = [[0, 1, 1.0, 2], *([count + step - 1, step + 1, 1.0 + step, step + 2] for step in range(1, count - 1))]
    score |= {"class_tree": tree, "class_names": [f"c{number}" for number in range(count)]}
    assert check_details(score) is None and sections.depth(tree) == count - 1
    assert "1,200 class means is too large to be drawn" in sections.section("clustering", score, old=False)
