"""What this process may use of the machine."""

from __future__ import annotations

import os
import platform


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
    """Containers and batch systems set a limit of their own, which the system's figure does not show."""
    try:
        with open("/sys/fs/cgroup/memory.max") as limit, open("/sys/fs/cgroup/memory.current") as used:
            return int(limit.read()) - int(used.read())
    except (OSError, ValueError):  # none, or "max"
        return None


def cpu_name() -> str:
    """The processor's own name, where the system tells it."""
    try:
        with open("/proc/cpuinfo") as lines:
            return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
