"""The Triton view kernel compiled for an A100 and an H200: what it takes of them, and that sizes share machine code."""

import dataclasses
import re

import numpy as np
import pytest
import torch

from fastvarcon.data.augment import view_params
from fastvarcon.data.batch import ImageBatch

VARIANTS = {"bfloat16": {}, "bfloat16 blur": {"sigma": 1.0}, "float16 blur": {"sigma": 1.0}, "float32": {}}
VARIANTS |= {"bfloat16 bicubic": {"interpolation": "bicubic"}, "bfloat16 operations": {"op": 1}}
VARIANTS |= {"bfloat16 clipped": {"interpolation": "bicubic", "clip": True}}
SIZES = (1, 15, 16, 31, 32, 33, 160, 176, 192, 208, 223, 224)


def launches():
    """For aot.py: the variants, then bfloat16 over sizes, batch sizes and addresses of any divisibility."""
    from fastvarcon.kernels import views_triton

    def launch(images: int, size: int, dtype=torch.bfloat16, address=0, sigma=0.0, op=0, **resize):
        side, ids = np.full(images, 40), np.arange(images)
        table = view_params("simaugment", 0, 0, ids, 0, heights=side, widths=side)
        table = dataclasses.replace(
            table, blur_sigma=torch.full((images,), sigma), ops=torch.full((images, 2), op, dtype=torch.uint8)
        )
        buffer = torch.zeros(address + images * 40 * 40 * 3, dtype=torch.uint8)
        batch = ImageBatch.empty(side, side, ids, ids, lambda _: buffer[address:])
        normalise = {"mean": (0, 0.5, 1), "std": (1, 1, 0.5)}
        views_triton.views(batch, table, size=size, **normalise, dtype=dtype, **resize)

    for name, options in VARIANTS.items():
        yield name, lambda name=name, options=options: launch(4, 32, getattr(torch, name.split()[0]), **options)
    for size in SIZES:
        yield "any size", lambda size=size: launch(4, size)
    for images in (1, 2, 3, 16):
        yield "any batch", lambda images=images: launch(images, 32, address=images)


@pytest.fixture(scope="module", params=[80, 90])
def compiled(request, compiled_for):
    return compiled_for(request.param, __file__)


def test_resources(compiled, triton_36):
    """Four programs of 128 threads share the 65,536 registers of a multiprocessor, and pixels stay in registers."""
    reduction, histogram, stack = (4096, 8192, 40) if triton_36 else (256, 1024, 32)
    for kernel in compiled:
        assert kernel["registers"] <= 128, kernel["launch"]
        operations = "operations" in kernel["launch"]  # a histogram lies in shared memory
        assert kernel["stack"] <= (stack if operations else 16), kernel["launch"]
        assert kernel["shared"] <= (histogram if operations else reduction), kernel["launch"]


def test_all_sizes_and_batches_run_one_machine_code(compiled):
    hashes = {kernel["launch"]: kernel["hash"] for kernel in compiled}
    assert len({hashes[variant] for variant in VARIANTS}) == len(VARIANTS)
    assert {kernel["hash"] for kernel in compiled if kernel["launch"].startswith("any")} == {hashes["bfloat16"]}


def test_instructions(compiled):
    for kernel in compiled:
        instructions = set(re.findall(r"^\s*(?:@%p\d+ )?([a-z][\w.:]*)", kernel["ptx"], re.MULTILINE))
        assert not any("f64" in name for name in instructions), "most GPUs are slow in float64"
        atomic = {name for name in instructions if name.startswith(("atom", "red."))}
        assert all(name.endswith(".add.u32") for name in atomic), "sums of floats would depend on the schedule"
        assert any(name.startswith("ld.global.b8") for name in instructions)
