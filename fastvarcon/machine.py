"""What this process may use of the machine."""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
from collections.abc import Iterator
from pathlib import Path

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h

GROUPS, PROCESS_GROUPS = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")
VERSION_1 = "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"
VERSION_2 = "memory.max", "memory.current", "inactive_file"


def available_cores() -> int:
    """CPU cores that the scheduler gives this process."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def available_memory() -> int:
    """Bytes of host memory that can be taken without swapping: what the system and the process's own group allow."""
    limits = [_cgroup_room(), _meminfo_available()]
    return min((limit for limit in limits if limit is not None), default=2**63)


def _meminfo_available() -> int | None:
    try:
        with open("/proc/meminfo") as lines:
            return next(1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        return None


def _cgroup_room() -> int | None:
    """Containers and batch systems set limits of their own, which the system's figure does not show."""
    rooms = [_room(folder, *names) for folder, names in _memory_groups()]
    return min((room for room in rooms if room is not None), default=None)


def _memory_groups() -> Iterator[tuple[Path, tuple[str, str, str]]]:
    """The groups of this process and those above them, which limit it too, and what their files are called.

    Inside a container the names of its groups are often those outside, and only the topmost folder is there.
    """
    try:
        lines = PROCESS_GROUPS.read_text().splitlines()
    except OSError:
        return
    for line in lines:  # "0::/slurm/job_7" of version 2, "9:memory:/slurm/job_7" of version 1
        _, controllers, group = line.split(":", 2)
        if "memory" in controllers.split(","):
            root, names = GROUPS / "memory", VERSION_1
        elif not controllers:
            root, names = GROUPS, VERSION_2
        else:
            continue
        parts = [part for part in group.split("/") if part not in ("", "..")]
        for depth in range(len(parts) + 1):
            yield root.joinpath(*parts[:depth]), names


def _room(folder: Path, limit_file: str, used_file: str, cache_field: str) -> int | None:
    """Bytes below the limit of one group. Files that the system can drop from memory at once do not count as used."""
    try:
        limit, used = int((folder / limit_file).read_text()), int((folder / used_file).read_text())
    except (OSError, ValueError):  # none, or "max"
        return None
    try:
        fields = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
        used -= int(fields.get(cache_field, 0))
    except (OSError, ValueError):
        pass
    return max(0, limit - max(0, used))


def open_file_limit() -> int:
    """How many files this process may have open, after raising that as far as the system lets it."""
    try:
        import resource
    except ImportError:  # Windows
        return 2**31
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):  # macOS has another limit below this one
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        soft = hard
    return soft if soft >= 0 else 2**31  # -1: without limit


def cpu_name() -> str:
    """The processor's own name, where the system tells it."""
    try:
        with open("/proc/cpuinfo") as lines:
            return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def keep_freed_memory() -> None:
    """Let this process keep what it frees, for the next step, where the C library is glibc.

    By default large blocks go back to the system at once, and every page of them is mapped anew when they are asked for
    again: for the activations of a training step on a CPU that is tens of thousands of pages.
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
        libc.mallopt(M_MMAP_THRESHOLD, 2**30) or libc.mallopt(M_MMAP_THRESHOLD, 2**25)  # the most of older versions
