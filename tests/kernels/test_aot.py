"""All kernels compiled for GPUs that are not there: they fit, use the tensor cores, and have no float64 and no atomics.

What else the compiler decides is on record, and compared and reported: see tests/resources.py.
"""

import pytest
from resources import MMA, SHARED, TENSOR_MEMORY, deviations, instructions, name, recorded

DOTS = ("_onehot_sums", "_sum_runs", "_rows", "_scores", "_dw", "_t")
"""Kernels of VarCon that multiply matrices."""
OTHERS = ("_join_runs", "_finalise", "_finish", "_dz", "_project")
COMPILED = {  # all kernels for one GPU, and what is special to others; benchmarks/kernel_resources.py compiles all
    80: {"varcon bfloat16 256 online": ["_rows"]},
    90: {
        "varcon bfloat16 512": None,
        "varcon bfloat16 256 online": ["_rows", "_dw"],
        "varcon float32 128": ["_onehot_sums", "_rows", "_dw"],
        "varcon float32 256": ["_scores", "_t"],
        "contrastive": None,
        "views": None,
    },
    100: {"varcon bfloat16 512": ["_rows", "_dw"], "varcon float32 128": ["_rows", "_dw"]},
    120: {
        "varcon bfloat16 128": ["_rows", "_dw"],
        "varcon bfloat16 512": ["_scores"],
        "contrastive plain 128": None,
        "contrastive inside 512": None,
    },
}


@pytest.fixture(scope="module")
def compiled(compile_kernels):
    return compile_kernels(COMPILED)


def of(family: str, compiled: list[dict]) -> list[dict]:
    return [kernel for kernel in compiled if kernel["launch"].startswith(family)]


def test_kernels_fit(compiled):
    assert {kernel["kernel"] for kernel in of("varcon", compiled)} == {*DOTS, *OTHERS}
    for kernel in [*compiled, *recorded()]:
        assert kernel["shared"] <= SHARED[kernel["capability"]], name(kernel)
    for kernel in compiled:
        assert kernel["tensor_memory"] <= TENSOR_MEMORY, name(kernel)


def test_products_run_on_the_tensor_cores(compiled):
    for kernel in of("varcon", compiled):
        assert (MMA[kernel["capability"]] in kernel["ptx"]) == (kernel["kernel"] in DOTS), name(kernel)
    for kernel in of("contrastive", compiled):
        # 512 columns leave room for 32 rows: too few for the instruction of an H100
        mma = MMA[80 if "512" in kernel["launch"] else kernel["capability"]]
        assert mma in kernel["ptx"], name(kernel)


def test_nothing_is_in_float64_or_depends_on_the_schedule(compiled):
    for kernel in compiled:
        found = instructions(kernel)
        assert not any("f64" in one for one in found), f"{name(kernel)}: most GPUs are slow in float64"
        atomic = {one for one in found if one.startswith(("atom", "red."))}
        if kernel["launch"].startswith("views"):  # counts of a histogram
            atomic = {one for one in atomic if not one.endswith(".add.u32")}
        assert not atomic, f"{name(kernel)}: sums would depend on the schedule"


def test_views_of_all_sizes_and_batches_run_one_machine_code(compiled):
    hashes = {kernel["launch"]: kernel["hash"] for kernel in of("views", compiled)}
    any_size = {hashes.pop("views any size"), hashes.pop("views any batch")}
    assert any_size == {hashes["views bfloat16"]} and len(set(hashes.values())) == len(hashes) > 1


def test_deviations_from_the_record_are_named():
    kernel = {"capability": 90, "kernel": "_rows", "launch": "varcon 128", "hash": "0"}
    kernel |= {"registers": 255, "stack": 24, "shared": 512}
    row = kernel | {"triton": "3.8.0"}
    assert deviations([kernel], "3.8.1", [row]) == ""
    assert deviations([kernel], "3.7.1", [row]).startswith("no record of what kernels take under Triton 3.7.1: python")
    assert deviations([kernel, kernel | {"launch": "varcon any"}], "3.8.1", [row]) == "", "one machine code"
    line = deviations([kernel | {"stack": 376, "hash": str(index)} for index in range(5)], "3.8.1", [row])
    assert "_rows, varcon 128, sm_90: 376 B of stack, on record 24; " in line and ", and 2 more: python" in line
    assert "255 registers, on record 128" in deviations([kernel], "3.8.1", [row | {"registers": 128}])
    assert "sm_80: not on record" in deviations([kernel | {"capability": 80}], "3.8.1", [row])
