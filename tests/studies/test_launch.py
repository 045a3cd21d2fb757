"""Runs as processes of their own: one command after another, what is said of a failure, nothing left behind."""

import os
import subprocess
import sys
import time

import pytest

from fastvarcon.machine import available_cores
from fastvarcon.studies import launch
from fastvarcon.studies.launch import Child, Failed, Slot, slots

ANY = Slot(None, None)


def python(code: str) -> list[str]:
    return ["python", "-c", code]


def wait(child: Child) -> None:
    while not child.poll():
        time.sleep(0.02)


def test_one_command_after_another(tmp_path):
    log, made = tmp_path / "run.log", tmp_path / "made"
    commands = iter(
        [python(f"open({str(made)!r}, 'w').write('1')"), python(f"print(open({str(made)!r}).read() + '2')")]
    )
    child = Child(commands, log, ANY)
    wait(child)
    assert child.last_line() == "12" and log.read_text().count("$ python -c") == 2


def test_a_failure_is_the_last_error_that_the_command_said(tmp_path):
    log = tmp_path / "run.log"
    log.write_text("$ python before\nerror: of an earlier attempt\n")
    with pytest.raises(Failed, match=r"the rate is too high: lower it \(see .*run\.log\)"):
        wait(Child(iter([python("raise SystemExit('error: the rate is too high: lower it')")]), log, ANY))
    with pytest.raises(Failed, match="exit code 3"):
        wait(Child(iter([python("raise SystemExit(3)"), python("print('never')")]), log, ANY))
    assert "never" not in log.read_text().splitlines()


def test_a_child_is_asked_to_save_and_waited_for(tmp_path):
    code = "import signal, time; signal.signal(15, lambda *_: (print('saved'), exit(0))); print('on', flush=True)"
    child = Child(iter([python(code + "; time.sleep(60)")]), tmp_path / "run.log", ANY)
    assert not child.poll()
    while child.last_line() != "on":
        time.sleep(0.02)
    child.stop()
    assert child.last_line() == "saved"


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child that its parent is gone")
def test_a_child_ends_with_a_parent_that_is_killed(tmp_path):
    """kill -9 of the driver: the training is told to save and leave."""
    log = tmp_path / "run.log"
    sleep = "import os, signal, time; print(os.getpid(), flush=True); time.sleep(60)"
    code = f"""
import time
from pathlib import Path
from fastvarcon.studies.launch import Child, Slot
child = Child(iter([["python", "-c", {sleep!r}]]), Path({str(log)!r}), Slot(None, None))
child.poll()
time.sleep(60)
"""
    parent = subprocess.Popen([sys.executable, "-c", code])
    while not (log.exists() and log.read_text().rstrip().rpartition("\n")[2].isdigit()):
        time.sleep(0.05)
    child = int(log.read_text().rstrip().rpartition("\n")[2])
    parent.kill()
    parent.wait()
    while _lives(child):
        time.sleep(0.05)


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rpartition(")")[2].split()[0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False


def test_gpus_are_shared(monkeypatch):
    monkeypatch.setattr(launch, "_visible_gpus", lambda: ["0", "2", "3", "5"])
    assert slots(1, 0) == ([ANY], 4) and slots(1, 2) == ([ANY], 2)
    two, each = slots(2, 0)
    assert [slot.gpus for slot in two] == [("0", "2"), ("3", "5")] and each == 2
    assert [slot.gpus for slot in slots(6, 0)[0]] == [("0",), ("2",), ("3",), ("5",), ("0",), ("2",)]


def test_cores_are_shared_where_there_is_no_gpu(monkeypatch):
    monkeypatch.setattr(launch, "_visible_gpus", list)
    assert slots(1, 0) == ([ANY], 1)
    two, each = slots(2, 0)
    assert each == 1 and all(slot.gpus is None for slot in two)
    if available_cores() >= 2:
        assert not set(two[0].cores) & set(two[1].cores) and len(two[0].cores) == available_cores() // 2
