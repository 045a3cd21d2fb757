"""Names that anybody may have given, places that cannot be written, environments that others have set up."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from fastvarcon import terminal
from fastvarcon.data.beton import RAW
from fastvarcon.data_prep.beton_writer import BetonWriter
from fastvarcon.data_prep.record import Record
from fastvarcon.reporting import charts
from fastvarcon.reporting import html as pages
from fastvarcon.reporting.drawing import Figure, drawing, label, save
from fastvarcon.visible import visible
from fastvarcon.whole_file import NotWritten, whole_file

NAMES = [
    "a$b_{c}",
    "$x^$",
    r"a\$b\frac",
    "\x1b[31mred\x07",
    "two\nlines",
    "_hidden",
    "half \ud800",
    "[/bold]",
    "x" * 300,
]


def test_text_stays_on_its_line():
    assert visible("a\nb\x1b[0m\u2028\ud800\u202e") == r"a\nb\x1b[0m\u2028\ud800\u202e"
    kept = "a\xa0b\u3000c \u06a9\u200c\u0647 \u00e9 $\\"
    assert visible(kept) == kept


@pytest.mark.parametrize("name", NAMES)
def test_charts_show_names_letter_by_letter(name):
    """As matplotlib lays them out: neither formulas nor control characters."""
    from matplotlib.text import Text

    text = Text()
    shown, is_formula = text._preprocess_math(label(name))
    assert not is_formula and shown.strip() == visible(name)[: 57 if len(name) > 60 else None] + "..." * (
        len(name) > 60
    )
    rows = [{"encoder": name, "method": "m", "shots": shots, "mean": 0.5, "half_width": 0.1} for shots in (1, 10)]
    groups = [{"name": name, "scores": {"knn": {"mean": 0.5, "std": 0.1}}}] * 2
    drawn = (
        charts.few_shot(rows),
        charts.dendrogram([[0, 1, 1.0, 2]], [name, name]),
        charts.compared(groups, "knn"),
        charts.corruption({name: {"1": 0.5}}, 0.1),
    )
    assert all("</svg>" in svg for svg in drawn)


def test_a_report_of_such_names(command, run, monkeypatch):
    monkeypatch.setattr(pages, "training_curves", lambda rows, config: {})  # as they are slow
    for folder in ("runs[", "$1_"):
        moved = run.parent / folder / "bold]"
        moved.parent.mkdir()
        run = run.rename(moved)
        said = command("report", run)
        assert said.code == 0 and "62.50%" in said.out and "bold]" in said.out.replace("\n", "")
    page = (run / "report.html").read_text()
    assert "Tree of class means" in page and "\x1b" not in page


@pytest.fixture
def beton(tmp_path):
    """Two images of old conversions, one of them a strip, of classes whose names steer a terminal."""
    path = tmp_path / "old.beton"
    with BetonWriter(path, 2, ["bad\n\x1b[31mname", "b$"]) as writer:
        for label_, (height, width) in enumerate(((40, 40), (1, 256))):
            pixels = np.full((height, width, 3), 128, np.uint8)
            writer.add(Record(pixels.tobytes(), RAW, height, width), label_, label_)
    return path


def test_inspect_shows_strips_and_such_names(command, beton, tmp_path):
    picture = tmp_path / "v.png"
    said = command("inspect", beton, "--views", "2", "--out", picture)
    assert said.code == 0 and r"bad\n\x1b[31mname" in said.out and "\x1b" not in said.out
    assert Image.open(picture).size[0] > 100
    said = command("inspect", beton, "--views", "2", "--out", tmp_path / "sub.png")
    (tmp_path / "sub.png").unlink()
    (tmp_path / "sub.png").mkdir()
    said = command("inspect", beton, "--views", "2", "--out", tmp_path / "sub.png")
    assert said.code == 2 and "sub.png cannot be written (Is a directory): give another place" in said.err
    assert "2 classes" in said.out and not list(tmp_path.glob("*.partial"))


def test_scores_are_printed_before_the_page_is_refused(command, run, tmp_path, monkeypatch):
    monkeypatch.setattr(pages, "training_curves", lambda rows, config: {})  # as they are slow
    (run / "report.html").mkdir()
    said = command("report", run)
    assert said.code == 2 and "62.50%" in said.out
    assert (
        f"{run / 'report.html'} cannot be written (Is a directory): give another place with `fastvarcon report"
        in said.err
    )
    assert command("report", run, "--out", tmp_path / "page.html").code == 0
    assert "62.50%" in (tmp_path / "page.html").read_text()
    assert command("eval", "compare", run, run, "--out", tmp_path / "new" / "c.html").code == 0
    (tmp_path / "file").touch()
    said = command("eval", "compare", run, run, "--out", tmp_path / "file" / "c.html")
    assert said.code == 2 and "62.50%" in said.out and "c.json cannot be written" in said.err


@pytest.mark.parametrize("refused", [PermissionError(13, "Permission denied"), OSError(28, "No space left on device")])
def test_a_file_gets_its_name_when_it_is_whole(tmp_path, refused):
    path = tmp_path / "a.json"
    path.write_text("old")

    def fail() -> None:
        with whole_file(path, "do that") as aside:
            aside.write_text("half")
            raise refused

    with pytest.raises(NotWritten, match=rf"a\.json cannot be written \({refused.strerror}\): do that"):
        fail()
    assert path.read_text() == "old" and [one.name for one in tmp_path.iterdir()] == ["a.json"]
    assert isinstance(NotWritten(""), OSError), "callers that go on without a file catch OSError"


def test_a_name_as_long_as_names_may_be(tmp_path):
    path = tmp_path / ("é" * 127)
    with whole_file(path) as aside:
        aside.touch()
    assert path.exists()


def test_charts_need_no_display_and_no_settings(tmp_path):
    """Where a notebook of another environment has set MPLBACKEND, and where a matplotlibrc asks for LaTeX."""
    (tmp_path / "matplotlibrc").write_text("text.usetex: True\n")
    code = (
        "from fastvarcon.reporting import drawing, charts; import os\n"
        "print(len(charts.dendrogram([[0, 1, 1.0, 2]], ['a$', '_b'])) > 1000, os.environ['MPLBACKEND'])"
    )
    asked = "module://matplotlib_inline_of_nobody.backend"
    environment = {**os.environ, "MPLBACKEND": asked, "MATPLOTLIBRC": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.stdout == f"True {asked}\n", done.stderr


def test_no_other_module_imports_matplotlib(request):
    root = request.config.rootpath
    found = [
        str(path.relative_to(root))
        for folder in ("fastvarcon", "recipes", "data_prep", "kernels")
        for path in (root / folder).rglob("*.py")
        if "import matplotlib" in path.read_text() or "from matplotlib.figure" in path.read_text()
    ]
    assert found == ["fastvarcon/reporting/drawing.py"]


def test_a_figure_is_saved_whole_or_refused(tmp_path):
    with drawing():
        figure = Figure()
        figure.subplots().set_yscale("log")
        save(figure, tmp_path / "a.png", 50)
        (tmp_path / "dir.png").mkdir()
        with pytest.raises(NotWritten, match=r"dir\.png cannot be written"):
            save(figure, tmp_path / "dir.png", 50)
    assert Image.open(tmp_path / "a.png").size and len(list(tmp_path.iterdir())) == 2


def test_tables_take_brackets_for_brackets(capsys):
    from rich.console import Console
    from rich.table import Table

    table = Table("name")
    terminal.add_row(table, "[red]a[/]\x1b[31m")
    Console().print(table)
    assert r"[red]a[/]\x1b[31m" in capsys.readouterr().out


def test_scores_of_json_may_hold_half_a_letter(command, run):
    """Written by a program that cuts text: UTF-8 cannot spell it, a page still has to be written."""
    score = json.loads((run / "eval" / "knn.json").read_text()) | {"title": "\ud83d", "command": "\ud83d\x00"}
    (run / "eval" / "knn.json").write_text(json.dumps(score))
    assert command("report", run).code == 0 and r"\ud83d\x00" in (run / "report.html").read_text()


def test_any_refusal_of_the_system_is_one_line(command, tmp_path):
    """Also of a path that nobody asked about in time; and an error stays on its line whatever the path holds."""
    said = command("eval", "knn", "x" * 300)
    assert said.code == 2 and "File name too long" in said.err
    said = command("inspect", f"{tmp_path}/no\nsuch\x1b[31m.beton")
    assert said.code == 2 and r"no\nsuch\x1b[31m.beton" in said.err
