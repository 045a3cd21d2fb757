"""Studies from the command line, on scikit-learn's digits: every study in small, and what the driver promises."""

import csv
import json
import os
import runpy
import signal
import sys
from pathlib import Path

import filelock
import pytest

from fastvarcon.studies.table import COLUMNS

RECIPES = Path(__file__).parents[2] / "recipes"
TINY = ["--train.epochs", "1", "--train.warmup-epochs", "0", "--train.threads", "1", "--data.workers", "1"]
SMALL = {  # two points of each, two seeds where the default of --small is not overruled
    "against": ["VarCon", "2 x NLL, label smoothing 0.1"],
    "augmentation": ["VarCon", "AutoAugment", "crop and flip", "--seeds", "1"],
    "batch_size": ["VarCon", "x0.5", "x1", "--seeds", "1"],
    "detach": ["both detached", "neither detached", "--seeds", "1"],
    "epochs": ["VarCon", "x0.5", "x1", "--train.epochs", "2", "--seeds", "1"],
    "eps": ["0", "0.08", "--seeds", "1"],
    "few_shot": ["VarCon", "cross-entropy", "--seeds", "1"],
    "temperature": ["0.1"],
}


@pytest.fixture
def run(monkeypatch, tmp_path, capsys):
    """Run a study in this process, as `python recipes/studies/NAME.py FLAGS` does in tmp_path: (exit code, output)."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipes").symlink_to(RECIPES)
    before = signal.getsignal(signal.SIGTERM)  # a program sets its own

    def call(name: str, *words: str) -> tuple[int, str]:
        path = f"recipes/studies/{name}.py"
        monkeypatch.setattr(sys, "argv", [path, *map(str, words)])
        try:
            runpy.run_path(path, run_name="__main__")
            code = 0
        except SystemExit as left:
            code = left.code
        said = capsys.readouterr()
        return code, said.out + said.err

    yield call
    signal.signal(signal.SIGTERM, before)


def rows_of(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def files(digits) -> list[str]:
    return ["--data.train", str(digits[0]), "--data.val", str(digits[1])]


def test_every_study_is_here():
    assert set(SMALL) == {path.stem for path in (RECIPES / "studies").glob("*.py")}


@pytest.mark.parametrize("name", SMALL)
def test_a_study_in_small(run, digits, name):
    """Trained, scored, drawn."""
    code, said = run(name, "--small", *files(digits), *TINY, "--out", "study", "--only", *SMALL[name])
    assert code == 0, said
    rows = rows_of(Path(f"study/{name}.csv"))
    assert tuple(rows[0]) == COLUMNS and len(rows) == 2 * len({row["seed"] for row in rows})
    assert len({(row["series"], row["point"]) for row in rows}) == 2
    for row in rows:
        assert float(row["linear_top1"]) > 0.3 and 0.1 < float(row["knn_top1"]) <= 1, row
        assert json.loads(Path(f"study/{row['run']}/eval/linear.json").read_text())["top1"] == pytest.approx(
            float(row["linear_top1"]), abs=1e-5
        )
        assert row["command"].startswith("python recipes/digits.py --data.train ")
        assert (row["few_shot_logistic"] != "") == (name == "few_shot")
    assert Path(f"study/{name}.png").read_bytes().startswith(b"\x89PNG")


def test_what_is_missing_is_made_and_the_rest_left_alone(run, digits):
    command = ["eps", "--small", *files(digits), *TINY, "--out", "study", "--only", "0", "--seeds"]
    assert run(*command, "2")[0] == 0
    table, first = Path("study/eps.csv").read_text(), Path("study/0-seed0/summary.json").stat().st_mtime_ns
    Path("study/0-seed1/eval/knn.json").unlink()  # cut off between its scores
    code, said = run(*command, "2")
    assert code == 0 and "2 runs, 1 of them finished before" in said and "[2/2] 0-seed1" in said
    assert Path("study/0-seed1/eval/knn.json").exists()
    assert Path("study/0-seed0/summary.json").stat().st_mtime_ns == first
    code, said = run(*command, "1")
    assert code == 0 and "1 runs, 1 of them finished before" in said
    assert Path("study/eps.csv").read_text() == table  # the other seed is not forgotten
    code, said = run("eps", "--redraw", "study/eps.csv", "--out", "again")
    assert code == 0 and said.strip() == "again/eps.png" and Path("again/eps.png").exists()


def test_a_mistake_that_all_runs_would_make_ends_the_study(run, digits):
    code, said = run("eps", "--small", *files(digits), *TINY, "--out", "study", "--train.lr", "1e30")
    assert code == 2 and said.splitlines()[-1].startswith("error: 0-seed0: the loss or a weight is not finite")


def test_one_run_that_fails_does_not_end_the_others(run, digits, monkeypatch):
    monkeypatch.setattr("fastvarcon.studies.launch.LOCK_SECONDS", 0.1)
    Path("study/0.02-seed0").mkdir(parents=True)
    words = ["--small", *files(digits), *TINY, "--out", "study", "--seeds", "1", "--only", "0", "0.02", "0.04"]
    with filelock.FileLock("study/0.02-seed0/.lock"):
        code, said = run("eps", *words)
    assert code == 2 and "error: 1 of 3 runs failed, 0.02-seed0 first: study/0.02-seed0 is in use" in said
    assert [row["point"] for row in rows_of(Path("study/eps.csv"))] == ["0", "0.04"]


def test_one_folder_one_study(run, digits):
    Path("study").mkdir()
    with filelock.FileLock("study/.lock"):
        code, said = run("eps", "--small", *files(digits), "--out", "study")
    assert code == 2 and said == "error: --out study is in use by another run: wait for it or give another folder\n"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "--recipe is missing: give a file such as recipes/cifar10.py, or --small for the digits"),
        (["--recipe", "nothing.py"], "--recipe nothing.py does not exist"),
        (["--small", "--recipe", "recipes/digits.py"], "--small has a recipe of its own"),
        (["--recipe", "recipes/cifar10.py"], "--data.val is missing"),
        (
            ["--recipe", "recipes/digits.py", "--loss.eps", "0.05"],
            "--loss.eps is what the study eps sets: leave",
        ),
        (["--recipe", "recipes/digits.py", "--only", "7"], "--only '7' is no point of eps: choose from 0, 0.01, "),
        (["--recipe", "recipes/digits.py", "--seeds", "0"], "--seeds and --jobs must be at least 1"),
        (["--small", "--jobs", "2"], "--here is one process: leave out --jobs and --processes"),
        (["--redraw", "nothing.csv"], "--redraw nothing.csv does not exist: give the .csv of a study"),
        (["--recipe", "recipes/digits.py", "--data.std", "0", "0", "0"], "--data.std must be positive"),
    ],
)
def test_mistakes_are_one_line(run, words, message):
    code, said = run("eps", *words)
    assert code == 2 and message in said and said.startswith("error: ") and said.count("\n") == 1


def test_runs_as_processes_of_their_own(run_python, digits, tmp_path):
    """The commands of the table are those that ran."""
    words = ["--data.size", "8", "--data.eval-resize", "8", "--model.width", "0.125", "--train.val-every", "0", *TINY]
    (tmp_path / "recipes").symlink_to(RECIPES)
    study = ["recipes/studies/eps.py", "--recipe", "recipes/digits.py", *files(digits), *words, "--out", "study"]
    where = {"cwd": tmp_path, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = run_python(*study, "--only", "0", "--seeds", "1", timeout=1500, **where)  # four programs start
    assert done.returncode == 0, done.stdout + done.stderr
    [row] = rows_of(tmp_path / "study/eps.csv")
    log = (tmp_path / "study/0-seed0.log").read_text()
    ran = [line[2:] for line in log.splitlines() if line.startswith("$ ")]
    assert ran == [row["command"], *row["eval_commands"].split("; ")] and row["command"].endswith("--out study/0-seed0")
