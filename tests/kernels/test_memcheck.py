"""The check of the interpreter's memory accesses catches what it is there for."""

import pytest
import torch

triton = pytest.importorskip("triton", reason="triton is not on this system")
tl = triton.language

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="the kernels run on the GPU, not in the interpreter")


@triton.jit
def shift(x, y, n, read, write, BLOCK: tl.constexpr):
    at = tl.arange(0, BLOCK)
    tl.store(y + write + at, tl.load(x + read + at, mask=at < n), mask=at < n)


@triton.jit
def count(y, at):
    tl.atomic_add(y + at, 1.0)


@pytest.mark.parametrize(("read", "write", "what"), [(1, 0, "reads 1 of 6"), (0, 2, "writes 2 of 6"), (-1, 0, "reads")])
def test_access_outside_of_the_tensors_is_an_error(read, write, what):
    with pytest.raises(Exception, match=what):
        shift[(1,)](torch.zeros(6), torch.zeros(6), 6, read, write, BLOCK=8)


def test_atomic_outside_of_the_tensors_is_an_error():
    with pytest.raises(Exception, match="updates"):
        count[(1,)](torch.zeros(6), 6)


def test_masked_lanes_and_views_into_a_storage_are_allowed():
    memory = torch.arange(12.0)
    shift[(1,)](memory[2:8], memory[6:12], 6, 0, 0, BLOCK=8)
    assert memory[6:].tolist() == [2, 3, 4, 5, 6, 7]
