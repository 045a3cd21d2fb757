"""Interrupted conversions: the same command goes on, does nothing twice, and writes the file of one go."""

import os
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fastvarcon.data.beton import Beton
from fastvarcon.data_prep import workers
from fastvarcon.data_prep.convert import Progress, convert
from fastvarcon.data_prep.encode import EncodeSettings
from fastvarcon.data_prep.journal import Journal
from fastvarcon.data_prep.sources import open_source
from fastvarcon.errors import UserError
from fastvarcon.progress import Counter


class Said(Progress):
    def __init__(self):
        self.lines, self.done = [], None

    def say(self, line):
        self.lines.append(line)

    def begin(self, done):
        self.done = done


def run(folder, out, workers=1, on_error="stop", restart=False, shard=None, **settings):
    """Convert; returns what was said of an earlier run, and how many images it had done."""
    said = Said()
    convert(
        open_source(folder),
        out,
        EncodeSettings(**settings),
        workers=workers,
        on_error=on_error,
        restart=restart,
        shard=shard,
        progress=said,
    )
    return said


@pytest.fixture
def interrupted(image_folder, tmp_path):
    """(folder, output, bytes of the output of one go): 10 of 15 images are done, then one was broken; now it is not."""
    run(image_folder, tmp_path / "whole.beton")
    broken, out = image_folder / "cat" / "1.png", tmp_path / "out" / "a.beton"
    whole = broken.read_bytes()
    broken.write_bytes(b"hello")
    out.parent.mkdir()
    with pytest.raises(UserError, match="10 of 15 images are converted"):
        run(image_folder, out)
    broken.write_bytes(whole)
    return image_folder, out, (tmp_path / "whole.beton").read_bytes()


def left(out: Path) -> list[str]:
    return sorted(path.name for path in out.parent.iterdir())


def test_goes_on_and_gives_the_same_file(interrupted):
    folder, out, expected = interrupted
    said = run(folder, out)
    assert said.done == 10 and said.lines[-1] == "resuming: 10 of 15 images are already converted"
    assert out.read_bytes() == expected and left(out) == ["a.beton"]


@pytest.mark.parametrize(
    ("change", "reason"),
    [({"quality": 80}, "quality"), ({"max_resolution": 30}, "max_resolution"), ({"mode": "keep"}, "mode")],
)
def test_other_settings_start_anew_and_say_why(interrupted, tmp_path, change, reason):
    folder, out, _ = interrupted
    said = run(folder, out, **change)
    assert said.done == 0 and said.lines == [f"starting anew: the interrupted conversion had another {reason}"]
    run(folder, tmp_path / "other.beton", **change)
    assert out.read_bytes() == (tmp_path / "other.beton").read_bytes()


def test_other_images_start_anew(interrupted):
    folder, out, _ = interrupted
    (folder / "ant" / "0.jpg").rename(folder / "ant" / "00.jpg")
    said = run(folder, out)
    assert said.done == 0 and said.lines == ["starting anew: the interrupted conversion had another list of images"]


# ---- sources that change in between ----------------------------------------------------------------------------------


def repaint(path: Path) -> None:
    """Another picture under the same name, written later."""
    Image.new("RGB", (31, 17), (200, 10, 90)).save(path)


@pytest.mark.parametrize("name", ["ant/0.jpg", "bee/0.jpg"])
def test_images_that_changed_are_converted_again(interrupted, tmp_path, name):
    folder, out, _ = interrupted
    repaint(folder / name)
    said = run(folder, out)
    assert said.lines[0].endswith(f"{name} has changed since it was converted: it and what is behind it are done again")
    assert said.done == {"ant/0.jpg": 0, "bee/0.jpg": 4}[name]
    run(folder, tmp_path / "fresh.beton")
    assert out.read_bytes() == (tmp_path / "fresh.beton").read_bytes() and left(out) == ["a.beton"]


def test_the_same_size_and_another_time_is_a_change(interrupted):
    folder, out, expected = interrupted
    os.utime(folder / "ant" / "1.png", ns=(1, 1))
    assert run(folder, out).done == 1 and out.read_bytes() == expected


def test_a_skipped_file_that_was_repaired_is_read(image_folder, tmp_path):
    broken, worse = image_folder / "ant" / "1.png", image_folder / "cat" / "1.png"
    whole, last = broken.read_bytes(), worse.read_bytes()
    run(image_folder, tmp_path / "whole.beton")
    broken.write_bytes(b"hello"), worse.unlink(), worse.mkdir(), (worse / "x.jpg").write_bytes(last)

    class Interrupted(Said):
        def advance(self, images):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert(
            open_source(image_folder),
            tmp_path / "a.beton",
            EncodeSettings(),
            workers=1,
            on_error="skip",
            progress=Interrupted(),
        )
    assert len(Journal(tmp_path / "a.beton").read()[1]) == 15
    broken.write_bytes(whole), (worse / "x.jpg").rename(tmp_path / "x"), worse.rmdir(), worse.write_bytes(last)
    assert run(image_folder, tmp_path / "a.beton").done == 0  # the list of images has another name in it
    assert (tmp_path / "a.beton").read_bytes() == (tmp_path / "whole.beton").read_bytes()


def test_journal_of_an_earlier_release_starts_anew(interrupted):
    folder, out, expected = interrupted
    journal = Journal(out)
    header, items = journal.read()
    del header["form of journal"]
    journal.start(header, items)
    journal.close()
    said = run(folder, out)
    assert said.done == 0 and said.lines == ["starting anew: the interrupted conversion had another form of journal"]
    assert out.read_bytes() == expected


# ---- killed at every step --------------------------------------------------------------------------------------------

KILLED = """
import os, shutil, sys
from pathlib import Path
from fastvarcon.data_prep import workers
from fastvarcon.data_prep.convert import convert
from fastvarcon.data_prep.encode import EncodeSettings
from fastvarcon.data_prep.sources import open_source

workers.CHUNK = 4
source, expected, here, form = Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4]
steps, deadline = 0, None

def step(event=None, details=None):
    global steps
    if event in (None, "open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate"):
        if event == "open" and not (isinstance(details[0], str) and str(here) in details[0]):
            return
        steps += 1
        if steps == deadline:
            os._exit(9)

def before(function):
    def stepping(*arguments):
        step()
        return function(*arguments)
    return stepping

os.fsync = before(os.fsync)

def run(at):
    global steps, deadline
    child = os.fork()
    if child == 0:
        steps, deadline = 0, at
        try:
            convert(open_source(source), here / "a.out", EncodeSettings(), workers=1, on_error="skip", format=form)
        except BaseException as error:
            print(f"step {at}: {error!r}", flush=True)
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

def content(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}

sys.addaudithook(step)
whole, points = content(expected), 0
while run(points + 1) == 9:
    points += 1
    if run(None) != 0 or content(here) != whole:
        print(f"killed at step {points}: {sorted(content(here))}, not {sorted(whole)}", flush=True)
    shutil.rmtree(here)
    here.mkdir()
print(points, "points")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
@pytest.mark.parametrize("form", ["beton", "tar"])
def test_killed_at_every_step_and_repeated(image_folder, tmp_path, run_python, form):
    """At every file that is opened, renamed, removed, made or synced: the same command gives the output of one go."""
    for name in ("bee/2.jpg", "bee/3.png", "bee/4.jpg", "cat"):
        path = image_folder / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    (image_folder / "bee" / "1.png").write_bytes(b"hello")
    for folder in ("expected", "here"):
        (tmp_path / folder).mkdir()
    out, script = tmp_path / "expected" / "a.out", tmp_path / "killed.py"
    convert(open_source(image_folder), out, EncodeSettings(), workers=1, on_error="skip", format=form)
    script.write_text(KILLED)
    said = run_python(script, image_folder, tmp_path / "expected", tmp_path / "here", form).stdout.splitlines()
    assert len(said) == 1 and int(said[0].split()[0]) >= 15, "\n".join(said)


def test_restart_throws_the_partial_work_away(interrupted):
    folder, out, expected = interrupted
    said = run(folder, out, restart=True)
    assert said.done == 0 and said.lines == ["starting anew: --restart"] and out.read_bytes() == expected


def test_damaged_record_is_found_and_done_again(interrupted):
    folder, out, expected = interrupted
    partial = out.with_name("a.beton.partial")
    content = bytearray(partial.read_bytes())
    content[-2000] ^= 1
    partial.write_bytes(content)
    said = run(folder, out)
    assert 0 < said.done < 10 and out.read_bytes() == expected


@pytest.mark.parametrize("cut", [0, 1000, 2_100_000, -1])
def test_truncated_partial_output(interrupted, cut):
    folder, out, expected = interrupted
    partial = out.with_name("a.beton.partial")
    os.truncate(partial, cut % partial.stat().st_size)
    said = run(folder, out)
    assert said.done < 10 and out.read_bytes() == expected


def test_partial_output_without_journal_and_the_reverse(interrupted):
    folder, out, expected = interrupted
    kept = shutil.copy(out.with_name("a.beton.journal"), out.parent.parent / "journal")
    out.with_name("a.beton.journal").unlink()
    assert run(folder, out).done == 0 and out.read_bytes() == expected
    shutil.copy(kept, out.with_name("a.beton.journal"))
    assert run(folder, out).done == 0 and out.read_bytes() == expected


def test_interrupted_in_its_last_step(image_folder, tmp_path, monkeypatch):
    """The tables are written but not synced: only the last step is done again."""
    run(image_folder, tmp_path / "whole.beton")

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("fastvarcon.data_prep.beton_writer.os.fsync", full)
    with pytest.raises(UserError, match=r"No space left on device.*: 15 of 15 images are converted, the same command"):
        run(image_folder, tmp_path / "a.beton")
    assert not (tmp_path / "a.beton").exists()
    monkeypatch.undo()
    assert run(image_folder, tmp_path / "a.beton").done == 15
    assert (tmp_path / "a.beton").read_bytes() == (tmp_path / "whole.beton").read_bytes()


def test_tables_of_an_unfinished_file_do_not_shine_through(image_folder, tmp_path, monkeypatch):
    """Stopped in its last step with 15 images; done anew with 14: no trace of the fifteenth row."""
    with monkeypatch.context() as patch:
        patch.setattr("fastvarcon.data_prep.beton_writer.os.fsync", lambda _: (_ for _ in ()).throw(OSError(5, "x")))
        with pytest.raises(UserError):
            run(image_folder, tmp_path / "a.beton")
    (image_folder / "cat" / "5.png").write_bytes(b"hello")
    run(image_folder, tmp_path / "a.beton", on_error="skip", quality=80)
    run(image_folder, tmp_path / "b.beton", on_error="skip", quality=80)
    assert (tmp_path / "a.beton").read_bytes() == (tmp_path / "b.beton").read_bytes()


def test_skipping_may_be_asked_for_later(interrupted):
    folder, out, _ = interrupted
    (folder / "cat" / "5.png").write_bytes(b"broken too")
    with pytest.raises(UserError, match=r"cat/5\.png.*14 of 15 images are converted"):
        run(folder, out)
    assert run(folder, out, on_error="skip").done == 14 and len(Beton(out)) == 14
    assert "cat/5.png" in out.with_name("a.beton.skipped.txt").read_text()


def test_skipped_files_survive_a_resume(image_folder, tmp_path, monkeypatch):
    (image_folder / "ant" / "1.png").write_bytes(b"broken")
    monkeypatch.setattr("fastvarcon.data_prep.workers.CHUNK", 4)

    class Interrupted(Said):
        def advance(self, images):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert(
            open_source(image_folder),
            tmp_path / "a.beton",
            EncodeSettings(),
            workers=1,
            on_error="skip",
            progress=(said := Interrupted()),
        )
    assert said.lines == ["4 of 15 images are converted, the same command goes on behind them"]
    with pytest.raises(UserError, match=r"skipped 1 broken files: go on with --on-error skip, or .* --restart"):
        run(image_folder, tmp_path / "a.beton")
    assert run(image_folder, tmp_path / "a.beton", on_error="skip").done == 4
    assert len(Beton(tmp_path / "a.beton")) == 14 and "1.png" in (tmp_path / "a.beton.skipped.txt").read_text()


def test_threads_that_keep_files_end_with_an_interrupt(image_folder, tmp_path, monkeypatch):
    monkeypatch.setattr("fastvarcon.data_prep.workers.CHUNK", 2)

    class Interrupted(Said):
        def advance(self, images):
            raise KeyboardInterrupt

    source, settings, out = open_source(image_folder), EncodeSettings("keep"), tmp_path / "a.beton"
    with pytest.raises(KeyboardInterrupt):
        convert(source, out, settings, workers=2, on_error="stop", progress=Interrupted())
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("fastvarcon-convert")]
    assert run(image_folder, out, workers=2, mode="keep").done == 2
    run(image_folder, tmp_path / "whole.beton", mode="keep")
    assert out.read_bytes() == (tmp_path / "whole.beton").read_bytes()


@pytest.mark.skipif(not hasattr(signal, "pthread_sigmask"), reason="signals cannot be blocked")
def test_an_interrupt_while_workers_start_is_not_lost(image_folder, tmp_path, monkeypatch):
    """It arrives, at the latest behind the start of the last one, and no worker is left."""
    monkeypatch.setattr("fastvarcon.data_prep.workers.CHUNK", 2)
    started = []

    class Worker(workers._Worker):
        def __init__(self, process, connection):
            super().__init__(process, connection)
            started.append(process)
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(workers, "_Worker", Worker)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a test run in the background ignores it
    try:
        with pytest.raises(KeyboardInterrupt):
            run(image_folder, tmp_path / "a.beton", workers=2)
    finally:
        signal.signal(signal.SIGINT, before)
    assert started and not any(process.is_alive() for process in started)
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, ())
    assert [path.name for path in tmp_path.iterdir()] == ["images"]


def test_every_shard_resumes_by_itself(interrupted):
    folder, out, _ = interrupted
    assert run(folder, out, shard=(1, 2)).lines == []
    assert run(folder, out).done == 10


def test_counter_rates_this_process_alone(capsys):
    counter = Counter("converting", 1000)
    counter.begin(900)
    counter._start -= 10
    counter.advance(100)
    assert "1,000/1,000 images  10 images/s  left 0:00" in capsys.readouterr().out


# ---- real processes ------------------------------------------------------------------------------------------------

KILLS = 6


@pytest.fixture
def many(tmp_path, rng):
    """600 pictures of 256 x 192 pixels: about a second of work for two workers."""
    root = tmp_path / "many"
    for index in range(600):
        folder = root / f"class{index // 60}"
        folder.mkdir(parents=True, exist_ok=True)
        if index < 20:
            coarse = rng.integers(0, 256, (24, 32, 3), dtype=np.uint8)
            Image.fromarray(coarse).resize((256, 192), Image.Resampling.BICUBIC).save(folder / f"{index:03d}.jpg")
        else:
            shutil.copy(root / "class0" / f"{index % 20:03d}.jpg", folder / f"{index:03d}.jpg")
    return root


def start(folder, out, *flags, limit: str = "unlimited", **options) -> subprocess.Popen:
    command = [sys.executable, "-m", "fastvarcon.cli", "convert", str(folder), str(out), "--workers", "2", *flags]
    limited = ["bash", "-c", 'ulimit -f "$0"; exec "$@"', limit, *command]  # kilobytes a file may have
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(limited, preexec_fn=_heed_interrupts, **pipes, **options)


def _heed_interrupts() -> None:
    """A test run in the background of a shell ignores Ctrl-C, and hands that on to what it starts."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def wait_for(process: subprocess.Popen, images: int, out: Path) -> None:
    """Until more images than that have been added to the journal, or the process has ended."""
    journal = Journal(out)
    before = len(journal.read()[1])
    while process.poll() is None and len(journal.read()[1]) <= before + images:
        time.sleep(0.002)


def expected_of(many: Path, tmp_path: Path) -> bytes:
    run(many, tmp_path / "whole.beton")
    return (tmp_path / "whole.beton").read_bytes()


def test_killed_again_and_again(many, tmp_path):
    """kill -9 at random moments: nothing under the final name, no image done twice, the bytes of one go."""
    expected, out = expected_of(many, tmp_path), tmp_path / "out" / "a.beton"
    out.parent.mkdir()
    moments, done, kills = random.Random(0), 0, 0
    while kills < KILLS or not out.exists():
        process = start(many, out)
        if kills < KILLS:
            wait_for(process, moments.choice([0, 20, 50, 100]), out)
            time.sleep(moments.uniform(0, 0.02))
            process.kill()
            kills += process.wait() == -signal.SIGKILL
        said = process.communicate()[0]
        resumed = re.search(r"resuming: (\d+) of 600", said)
        assert (int(resumed[1]) if resumed else 0) in ((done,) if process.returncode == 0 else (done, 0)), said
        done = len(Journal(out).read()[1])
        if out.exists() and (kills < KILLS or process.returncode != 0):  # it was quicker than we: again from the start
            assert out.read_bytes() == expected
            out.unlink()
            Journal(out).remove()
            done = 0
    assert out.read_bytes() == expected and left(out) == ["a.beton"]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupted_process_says_how_to_go_on(many, tmp_path, number, code):
    """Ctrl-C reaches the workers too: one clear line, and nobody prints a traceback."""
    out = tmp_path / "a.beton"
    process = start(many, out, start_new_session=True)
    wait_for(process, 10, out)
    os.killpg(process.pid, number) if number == signal.SIGINT else process.send_signal(number)
    said, errors = process.communicate(timeout=600)
    assert process.returncode == code and "Traceback" not in errors, errors
    done = int(re.search(r"(\d+) of 600 images are converted, the same command goes on behind them", said)[1])
    assert done == len(Journal(out).read()[1]) > 0 and not out.exists()
    process = start(many, out)
    assert f"resuming: {done} of 600" in process.communicate()[0]
    assert out.read_bytes() == expected_of(many, tmp_path)


def test_full_disk(many, tmp_path):
    """A limit on the size of a file, a little beyond the space for the tables."""
    out = tmp_path / "a.beton"
    process = start(many, out, limit="2800")
    errors = process.communicate()[1]
    assert process.returncode == 2 and errors.count("\n") == 1, errors
    done = int(re.search(r"cannot be written \(File too large\): (\d+) of 600 images are converted, the", errors)[1])
    assert 0 < done < 600 and not out.exists()
    process = start(many, out)
    assert f"resuming: {done} of 600" in process.communicate()[0]
    assert out.read_bytes() == expected_of(many, tmp_path)


def test_killed_worker(many, tmp_path):
    """A worker that the system kills, for want of memory say: an error and not a hang, and what is done is kept."""
    out = tmp_path / "a.beton"
    process = start(many, out)
    wait_for(process, 10, out)
    os.kill(workers_of(process.pid)[0], signal.SIGKILL)
    errors = process.communicate(timeout=600)[1]
    assert process.returncode == 2 and errors.count("\n") == 1, errors
    done = int(re.search(r"a conversion worker died, .*: (\d+) of 600 images are converted, the same", errors)[1])
    assert f"resuming: {done} of 600" in start(many, out).communicate()[0]
    assert out.read_bytes() == expected_of(many, tmp_path)


def workers_of(pid: int) -> list[int]:
    """The processes that the server of worker processes has started."""
    below: dict[int, list[int]] = {}
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = status.read_text().rsplit(")", 1)[1].split()
        except OSError:  # it has just ended
            continue
        below.setdefault(int(fields[1]), []).append(int(status.parent.name))
    return [worker for child in below.get(pid, []) for worker in below.get(child, [])]


def test_two_processes(many, tmp_path):
    """The second is refused and does no harm; the lock of a process that was killed holds nobody up."""
    out = tmp_path / "a.beton"
    first = start(many, out)
    wait_for(first, 10, out)
    os.kill(first.pid, signal.SIGSTOP)
    with pytest.raises(UserError, match="is being written by another process"):
        run(many, out)
    with pytest.raises(UserError, match="is being written by another process"):
        run(many, out, restart=True)
    first.kill()
    first.wait()
    assert (tmp_path / "a.beton.lock").exists()
    assert run(many, out).done > 0 and out.read_bytes() == expected_of(many, tmp_path)
    first.communicate()
