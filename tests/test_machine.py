"""What a process may use of the machine."""

import platform

import pytest

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
