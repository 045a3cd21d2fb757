"""Streams that are closed, full or left, narrow terminals, and names that would steer one."""

import io
import os
import subprocess
import sys

import pytest
from PIL import Image

from fastvarcon import cli, terminal
from fastvarcon.data.beton import RAW
from fastvarcon.data_prep.beton_writer import BetonWriter
from fastvarcon.data_prep.record import Record
from fastvarcon.visible import visible

FULL = pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full")


@pytest.fixture
def file(tmp_path):
    with BetonWriter(tmp_path / "a.beton", 2, ["a", "b"]) as writer:
        for label in range(2):
            writer.add(Record(bytes(12), RAW, 2, 2), label, label)
    return tmp_path / "a.beton"


def bash(line: str, *arguments) -> subprocess.CompletedProcess:
    """`$0` is the command."""
    command = f"{sys.executable} -m fastvarcon"
    line = line.replace("$0", command)
    return subprocess.run(
        ["bash", "-c", line, "bash", *map(str, arguments)], capture_output=True, text=True, check=False
    )


@FULL
def test_output_that_cannot_be_written(file, tmp_path):
    """One process each: what is printed, and by whom, makes no difference to the stream."""
    done = bash('$0 inspect "$1" > /dev/full; echo "rc $?"', file)
    message = "error: standard output could not be written (No space left on device): send it elsewhere\n"
    assert (done.stdout, done.stderr) == ("rc 2\n", message)
    (tmp_path / "images" / "x").mkdir(parents=True)
    Image.new("RGB", (4, 4)).save(tmp_path / "images" / "x" / "0.png")
    done = bash('$0 convert "$1" "$2" > /dev/full; echo "rc $?"', tmp_path / "images", tmp_path / "b.beton")
    assert (done.stdout, done.stderr) == ("rc 2\n", message) and (tmp_path / "b.beton").exists()


def test_output_that_is_closed_or_left(file):
    assert bash('$0 inspect "$1" >&-; echo "rc $?"', file).stdout == "rc 0\n"
    left = bash('{ $0 --help; echo "rc $?" >&2; } | true', file)
    assert left.stderr == "rc 141\n"
    assert "2 images" in bash('$0 inspect "$1" 2>&-', file).stdout
    done = bash("$0 inspect nowhere 2>/dev/full >&-; echo rc $?")
    assert done.stdout == "rc 2\n"


@FULL
@pytest.mark.parametrize("kind", [terminal._Output, terminal._Errors])
def test_a_full_stream_takes_everything(kind):
    full = os.open("/dev/full", os.O_WRONLY)
    stream = io.TextIOWrapper(io.BufferedWriter(kind(full, "w")), line_buffering=True)
    for _ in range(3):
        print("x" * 10_000, file=stream)
    stream.close()


def test_a_file_opened_later_gets_no_output(run_python, tmp_path):
    """With the numbers of the standard streams free, the first files to be opened would be them."""
    code = (
        "import os, sys; os.close(0), os.close(1), os.close(2)\n"
        "sys.stdin = sys.stdout = sys.stderr = None\n"
        "from fastvarcon.terminal import prepare_terminal\n"
        "prepare_terminal()\n"
        "file = open(sys.argv[1], 'w'); print('lost'); os.write(1, b'lost'); file.write(str(file.fileno() > 2))"
    )
    assert run_python("-c", code, tmp_path / "x").returncode == 0
    assert (tmp_path / "x").read_text() == "True"


@pytest.mark.parametrize("columns", ["0", "1", "2", "10", "39", "100000000", "x", "-3", ""])
def test_help_ends_at_any_width(monkeypatch, capsys, columns):
    monkeypatch.setenv("COLUMNS", columns)
    monkeypatch.setattr(sys, "argv", ["fastvarcon", "merge", "--help"])
    with pytest.raises(SystemExit) as left:
        cli.main()
    said = capsys.readouterr().out
    assert left.value.code == 0 and "SHARD" in said and max(map(len, said.splitlines())) <= 400


def test_text_that_a_stream_cannot_spell(run_python):
    code = "from fastvarcon.terminal import prepare_terminal; prepare_terminal(); print('caf\\u00e9 \\udcff')"
    done = run_python("-c", code, PYTHONIOENCODING="ascii")
    assert done.stdout == "caf\\xe9 \\udcff\n" and done.returncode == 0


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("hot\u00a0dog \u6771\u3000 \u200c \u200d é e\u0301", None),
        ("a\nb\tc\r", r"a\nb\tc\r"),
        ("\x1b]0;title\x07\x9b31m", r"\x1b]0;title\x07\x9b31m"),
        ("\u2028\u202e\u2066", r"\u2028\u202e\u2066"),
        ("a\udcff\udc80\ud800", r"a\xff\x80\ud800"),
    ],
)
def test_what_is_spelled_out(text, shown, capsys):
    assert visible(text) == (shown or text)
    terminal.say(text, "second line")
    assert capsys.readouterr().out == f"{shown or text}\nsecond line\n"
