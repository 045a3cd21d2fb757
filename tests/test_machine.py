"""What a process may use of the machine."""

import platform

import pytest

from fastvarcon import machine

SCRIPT = """
import resource, torch
from fastvarcon.machine import keep_freed_memory

keep_freed_memory()
step = lambda: [torch.empty(4_000_000).fill_(1) for _ in range(4)]
step(), step(), step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries have no mallopt")
def test_freed_memory_is_used_again_without_page_faults(run_python):
    done = run_python("-c", SCRIPT)
    assert int(done.stdout) < 20_000, done.stderr  # 64 MB of 4 KB pages, five times: 80,000 if all were mapped anew


@pytest.fixture
def groups(tmp_path, monkeypatch):
    """`groups(lines of /proc/self/cgroup, {file: content})`: what there is room for."""

    def room(process: str, files: dict[str, object]) -> int | None:
        (tmp_path / "self").write_text(process)
        for name, content in files.items():
            path = tmp_path / "fs" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{content}\n")
        monkeypatch.setattr(machine, "GROUPS", tmp_path / "fs")
        monkeypatch.setattr(machine, "PROCESS_GROUPS", tmp_path / "self")
        return machine._cgroup_room()

    return room


def of_version_1(folder: str, limit: int, used: int, cache: int = 0) -> dict[str, object]:
    return {
        f"{folder}/memory.limit_in_bytes": limit,
        f"{folder}/memory.usage_in_bytes": used,
        f"{folder}/memory.stat": f"inactive_file 1\ntotal_inactive_file {cache}",
    }


def of_version_2(folder: str, limit: object, used: int, cache: int = 0) -> dict[str, object]:
    return {
        f"{folder}/memory.max": limit,
        f"{folder}/memory.current": used,
        f"{folder}/memory.stat": f"anon 7\ninactive_file {cache}",
    }


UNLIMITED = 9223372036854771712  # as version 1 spells it


@pytest.mark.parametrize(
    ("process", "files", "room"),
    [
        ("0::/\n", of_version_2(".", 1000, 300, 100), 800),
        ("0::/\n", of_version_2(".", "max", 300), None),
        ("0::/slurm/job_7/step_0\n", of_version_2("slurm/job_7", 500, 100) | of_version_2("slurm", "max", 9), 400),
        ("0::/../../x\n", of_version_2(".", 1000, 300), 700),
        ("9:memory:/\n1:cpu:/\n", of_version_1("memory", 1000, 300, 50), 750),
        ("9:cpu,memory:/docker/abc\n", of_version_1("memory", 1000, 1200), 0),  # the host's name, in a container
        (
            "9:memory:/slurm/job_7\n0::/\n",
            of_version_1("memory", UNLIMITED, 3) | of_version_1("memory/slurm", 90, 20),
            70,
        ),
        ("9:memory:/\n", {}, None),
        ("", {}, None),
    ],
)
def test_memory_limits_of_control_groups(groups, process, files, room):
    assert groups(process, files) == room
