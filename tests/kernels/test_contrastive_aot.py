"""The Triton contrastive kernels compiled for an A100, an H200 and an RTX card: what they take, and tensor cores."""

import re

import pytest
import torch

from fastvarcon.kernels.contrastive_form import Form

LAUNCHES = {  # every branch, every height of a tile
    "plain 128": (Form(0.1), 128),
    "own beta 256": (Form(0.1, own=True, beta=1.0), 256),
    "inside 512": (Form(0.1, inside=True), 512),
}
SHARED = {80: 163 << 10, 90: 227 << 10, 120: 99 << 10}  # bytes that one program may have


def launches():
    """For aot.py."""
    from fastvarcon.kernels import contrastive

    def launch(form: Form, dim: int):
        z = torch.zeros(256, dim, dtype=torch.float16)
        ids, scalars = torch.zeros(3, 256, dtype=torch.int32), torch.zeros(4, 256)
        contrastive.row_table(z, z, ids, ids, form)
        contrastive.gradient(z, z, ids, ids, scalars, scalars, form)

    for name, (form, dim) in LAUNCHES.items():
        yield name, lambda form=form, dim=dim: launch(form, dim)


@pytest.fixture(scope="module", params=[80, 90, 120])
def compiled(request, compiled_for):
    return request.param, compiled_for(request.param, __file__)


def test_resources(compiled):
    capability, kernels = compiled
    assert len(kernels) == 2 * len(LAUNCHES)
    for kernel in kernels:
        assert kernel["shared"] <= SHARED[capability], kernel["launch"]
        assert kernel["stack"] == 0, kernel["launch"]


def test_instructions(compiled):
    capability, kernels = compiled
    for kernel in kernels:
        instructions = set(re.findall(r"^\s*(?:@%p\d+ )?([a-z][\w.:]*)", kernel["ptx"], re.MULTILINE))
        # 512 columns leave room for 32 rows: too few for the instruction of an H100
        mma = "wgmma.mma_async" if capability == 90 and "512" not in kernel["launch"] else "mma.sync"
        assert any(name.startswith(mma) for name in instructions), kernel["launch"]
        assert not any("f64" in name for name in instructions), "most GPUs are slow in float64"
        assert not any(name.startswith(("atom", "red.")) for name in instructions), "sums would depend on the schedule"
