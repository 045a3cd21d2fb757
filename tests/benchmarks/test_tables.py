"""The tables of README and docs are what the rows say, and a table that is not fails."""

import csv
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
TABLE = re.compile(r"<!-- table:([\w-]+) -->\n.*?<!-- /table -->", re.S)
# what is measured reads like this: so many times, seconds, megabytes, images per second, per cent
MEASURED = re.compile(
    r"\d(?:\.\d+)? ?(?:x\b|times|%|(?:[kMG]B|ms|s|min|hours?|minutes?|seconds?|images/s|views/s|pairs/s)\b)"
)


def run(folder: Path, *args: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(folder / "benchmarks" / "tables.py"), *args]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture
def copy(tmp_path) -> Path:
    """The pages and the rows, to change."""
    shutil.copytree(ROOT / "docs", tmp_path / "docs")
    shutil.copytree(ROOT / "benchmarks", tmp_path / "benchmarks", ignore=shutil.ignore_patterns("*.png", "__pycache__"))
    shutil.copy(README, tmp_path)
    return tmp_path


def test_committed_tables_are_what_the_rows_say():
    done = run(ROOT, "--check")
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_number_changed_by_hand_is_found_and_made_good(copy):
    page = copy / "README.md"
    page.write_text(page.read_text().replace("|   9.70 |", "| 19.70 |").replace("9.70", "19.7"))
    done = run(copy, "--check")
    assert done.returncode == 1 and "-| " in done.stdout and "make tables" in done.stderr
    assert run(copy).returncode == 0
    assert page.read_text() == README.read_text()


def test_a_new_row_changes_the_table(copy):
    rows = copy / "benchmarks" / "results" / "runs.csv"
    newest = [line for line in rows.read_text().splitlines() if ",digits," in line][-1]
    rows.write_text(rows.read_text() + newest.replace("0.9861111111111112", "0.5") + "\n")
    done = run(copy, "--check")
    assert done.returncode == 1 and re.search(r"^\+.*50\.00 %", done.stdout, re.M), done.stdout


def test_studies_are_means_over_seeds(copy):
    rows = [("against", "losses", "SupCon", seed, score, 0.5) for seed, score in enumerate((0.80, 0.82, 0.84))]
    rows[:0] = [("against", "losses", "SupCon", 0, 0.1, 0.1)]  # measured again since
    rows += [("eps", series, "0.1", 0, 0.7, 0.6) for series in ("VarCon", "SupCon")]
    rows += [("epochs", "VarCon", "x 1", 0, 0.7, 0.6)]
    text = "study,series,point,seed,linear_top1,knn_top1,num_train,epochs,machine,date,command\n"
    rest = '5000,20,2 cores of a CPU,2026-11-23,"python recipes/cifar10.py --model.width 0.25 --out runs/x"'
    text += "".join(",".join(map(str, row)) + f",{rest}\n" for row in rows)
    text += f"against,losses,SupCon,0,0.9,0.9,{rest.replace('cifar10', 'digits')}\n"  # in a table of its own
    (copy / "benchmarks" / "results" / "studies.csv").write_text(text)
    page = copy / "README.md"
    page.write_text("<!-- table:evidence -->\n<!-- /table -->\n<!-- table:studies -->\n<!-- /table -->\n")
    assert run(copy).returncode == 0
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in page.open() if line[0] == "|"]
    name = "CIFAR-10, 5,000 images, width 0.25, 20 epochs"
    assert lines[2] == [name, "SupCon", "3", "82.00 ± 2.00 %", "50.00 ± 0.00 %"]
    assert lines[5:] == [
        [f"eps: {name}", "VarCon, 0.1", "1", "70.00 %", "60.00 %"],
        ["", "SupCon, 0.1", "1", "70.00 %", "60.00 %"],
        [f"epochs: {name}", "x 1", "1", "70.00 %", "60.00 %"],
    ]


def test_newcomers_steps_are_those_of_the_newest_measurement(copy):
    text = "date,step,seconds,cpu_seconds,load,machine,versions,command\n"
    for seconds in (50, 2):
        for step in ("convert", "train"):
            text += f"2026-11-23,{step},{seconds},1,0.1,2 x a CPU,torch=2,fastvarcon {step}\n"
    (copy / "benchmarks" / "results" / "newcomer.csv").write_text(text)
    page = copy / "README.md"
    page.write_text("<!-- table:newcomer -->\n<!-- /table -->\n")
    assert run(copy).returncode == 0
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in page.open() if line[0] == "|"]
    assert lines[2:] == [
        ["convert", "`fastvarcon convert`", "2.00"],
        ["train", "`fastvarcon train`", "2.00"],
        ["total", "", "4.00"],
    ]


def resources(triton: str, launch: str, stack: int, capability: int = 90) -> str:
    return f"2026-11-23,{triton},{capability},_rows,{launch},255,{stack},512,python benchmarks/kernel_resources.py\n"


def test_stack_is_the_most_of_each_launch_by_release(copy):
    text = "date,triton,capability,kernel,launch,registers,stack,shared,command\n"
    text += resources("3.10.1", "a", 16) + resources("3.10.1", "a", 40) + resources("3.10.1", "b", 8)
    text += resources("3.9.0", "a", 0) + resources("3.9.0", "b", 0) + resources("3.9.0", "a", 500, capability=120)
    (copy / "benchmarks" / "results" / "kernel_resources.csv").write_text(text)
    page = copy / "README.md"
    page.write_text("<!-- table:stack -->\n<!-- /table -->\n")
    assert run(copy).returncode == 0
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in page.open() if line[0] == "|"]
    assert lines[0] == ["launch", "kernel", "GPU", "3.9.0", "3.10.1"]
    assert lines[2:] == [["a", "`_rows`", "H100, H200", "0", "40"], ["the other 1", "", "", "0", "8 at most"]]


def test_kernels_measured_again_replace_the_rows_of_their_release(tmp_path, monkeypatch):
    script = runpy.run_path(str(ROOT / "benchmarks" / "kernel_resources.py"))
    out = tmp_path / "rows.csv"
    monkeypatch.setitem(script["write"].__globals__, "OUT", out)
    kernel = {"capability": 90, "kernel": "_rows", "launch": "a", "hash": "0", "registers": 255, "shared": 512}
    for triton, stack in (("3.10.0", 8), ("3.9.0", 24), ("3.10.1", 16)):
        script["write"](script["rows_of"](triton, [kernel | {"stack": stack}] * 2, "python"))
    with open(out, newline="") as file:
        assert [(row["triton"], row["stack"]) for row in csv.DictReader(file)] == [("3.9.0", "24"), ("3.10.1", "16")]


@pytest.mark.parametrize(
    ("name", "file", "message"),
    [("guess", None, "there is no table 'guess'"), ("fuzz", "fuzz.csv", "does not exist: measure first")],
)
def test_a_table_that_cannot_be_made_says_why(copy, name, file, message):
    (copy / "README.md").write_text(f"<!-- table:{name} -->\n<!-- /table -->\n")
    if file:
        (copy / "benchmarks" / "results" / file).unlink()
    done = run(copy, "--check")
    assert done.returncode == 1 and message in done.stderr


def test_readme_says_measured_numbers_in_tables_alone():
    plain = TABLE.sub("", README.read_text())
    assert not MEASURED.findall(plain), [line for line in plain.splitlines() if MEASURED.search(line)]
