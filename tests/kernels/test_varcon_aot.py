"""The VarCon kernels compiled for GPUs that are not there: they fit, hold on to registers, and use the tensor cores."""

import re

import pytest
import torch

SHARED = {80: 166_912, 90: 232_448, 100: 232_448, 120: 101_376}
"""Bytes that a program can have."""
MMA = {80: "mma.sync", 90: "wgmma.mma_async", 100: "tcgen05.mma", 120: "mma.sync"}
DOTS = ("_onehot_sums", "_sum_runs", "_rows", "_scores", "_dw", "_t")
BUDGET = {
    80: {("_rows", 256): 128},
    90: {("_rows", 256): 96, ("_rows", 128): 160, ("_dw", 128): 104},
    120: {("_rows", 256): 176},
}
"""Stack bytes a thread where there are more than FREE: (kernel, D), of the dtype that needs most."""
BUDGET_36 = {
    80: {("_rows", 256): 192, ("_scores", 512): 248, ("_scores", 2048): 248},
    90: {("_rows", 256): 232, ("_rows", 128): 280, ("_dw", 128): 272},
}
"""What Triton 3.6 needs beyond that: in bfloat16 `_rows` at 256 and `_scores`, in float32 those at 128."""
FREE = 88


def launches():
    """For aot.py: forward and backward of what is shipped for D = 128, 256, 512 and beyond, in both compute dtypes."""
    from fastvarcon.kernels import varcon
    from fastvarcon.kernels.varcon_tiles import capability

    def step(rows, dim, classes, dtype, tau1, method="auto", attached=True):
        z = torch.zeros(rows, dim, dtype=dtype, requires_grad=True)
        labels = torch.zeros(rows, dtype=torch.int64)
        sums, counts = varcon.class_sums(z.detach(), labels, classes, method)
        sums = sums.sum(0, keepdim=True).requires_grad_(attached)
        loss, _, _ = varcon.rows(z, sums, counts, labels, eps=0.02, tau1=tau1)
        loss.backward(torch.ones(rows))

    half, single = torch.bfloat16, torch.float32
    for name, *arguments in (
        ("bfloat16 512", 8192, 512, 1000, half, 0.1, "sorted"),
        ("bfloat16 256 online", 65536, 256, 1000, half, 0.05),
        ("bfloat16 128", 8192, 128, 1000, half, 0.1),
        ("float32 128", 8192, 128, 1000, single, 0.1),
        ("float32 256", 256, 256, 200, single, 0.1, "onehot"),
        ("bfloat16 2048", 256, 2048, 200, half, 0.1),
    )[:: 1 if capability() < 100 else 2]:
        yield name, lambda arguments=arguments: step(*arguments)


@pytest.fixture(scope="module", params=[80, 90, 100, 120])
def compiled(request, compiled_for):
    kernels = compiled_for(request.param, __file__)
    for kernel in kernels:
        kernel["name"] = re.search(r"\.entry (\w+)", kernel["ptx"])[1]
        kernel["dim"] = int(kernel["launch"].split()[1])
    return request.param, kernels


def test_kernels_fit_and_do_not_spill(compiled, triton_36):
    capability, kernels = compiled
    budget = BUDGET.get(capability, {}) | (BUDGET_36.get(capability, {}) if triton_36 else {})
    assert {kernel["name"] for kernel in kernels} >= {*DOTS, "_join_runs", "_finalise", "_finish", "_dz", "_project"}
    for kernel in kernels:
        what = f"{kernel['name']} {kernel['launch']} on sm_{capability}: {kernel['stack']} B of stack"
        assert kernel["shared"] <= SHARED[capability], what
        assert kernel["stack"] <= budget.get((kernel["name"], kernel["dim"]), FREE), what


def test_products_run_on_the_tensor_cores(compiled):
    capability, kernels = compiled
    for kernel in kernels:
        assert (MMA[capability] in kernel["ptx"]) == (kernel["name"] in DOTS), kernel["name"]


def test_nothing_is_in_float64_or_depends_on_the_schedule(compiled):
    for kernel in compiled[1]:
        instructions = set(re.findall(r"^\s*(?:@%p\d+ )?([a-z][\w.:]*)", kernel["ptx"], re.MULTILINE))
        assert not any("f64" in name for name in instructions), "most GPUs are slow in float64"
        assert not any(name.startswith(("atom.", "red.")) for name in instructions), "sums would depend on the schedule"


def test_tiles_by_size():
    """Rows in one pass up to D = 256; long rows, and few rows against many classes, in chunks."""
    from fastvarcon.kernels.varcon_tiles import row_tile

    assert row_tile(8192, 1000, 128, torch.float16).rows == 64 and row_tile(65536, 1000, 256, torch.float16).rows == 128
    assert row_tile(8192, 1000, 200, torch.float16).rows == 64 and row_tile(64, 100, 128, torch.float32).rows == 64
    assert row_tile(65536, 22000, 512, torch.float16) is None and row_tile(512, 22000, 128, torch.float16) is None


def test_autotuning_takes_the_fastest_and_measures_once(monkeypatch):
    from fastvarcon.kernels import varcon_tiles

    measured = []
    monkeypatch.setattr(varcon_tiles, "INTERPRETED", False)
    monkeypatch.setattr(
        varcon_tiles, "_milliseconds", lambda launch, tile: measured.append(tile) or tile.rows + tile.warps
    )
    tile = varcon_tiles.Tile(128, 64, 8, 3)
    assert varcon_tiles.tuned("shape", tile, print) is tile and not measured
    monkeypatch.setenv("FASTVARCON_AUTOTUNE", "1")
    assert varcon_tiles.tuned("shape", tile, print).rows == 64 and len(measured) == len(set(measured)) > 10
    count = len(measured)
    assert varcon_tiles.tuned("shape", tile, print).warps == 4 and len(measured) == count
