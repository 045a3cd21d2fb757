"""`fastvarcon bench kernels` from end to end on small shapes, and how it counts."""

import csv
import functools

import pytest
import torch
from PIL import Image

from fastvarcon.bench import varcon, varcon_chart, views
from fastvarcon.bench.timing import Work, measure_calls, peak_extra_bytes, repeat
from fastvarcon.bench.varcon import BASELINE, Job, bound_ms
from fastvarcon.commands.bench_kernels import print_table

NO_GPU = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
QUICK = ("--rounds", "2", "--seconds", "0.05", "--workers", "1")


@pytest.fixture
def kernels(run_python, tmp_path):
    """Run the command; returns its rows and what it said."""

    def run(*args):
        table, picture = tmp_path / "rows.csv", tmp_path / "chart.png"
        files = ("--csv", table, "--plot", picture)
        done = run_python("-m", "fastvarcon.cli", "bench", "kernels", "--device", "cpu", *args, *QUICK, *files)
        assert done.returncode == 0, done.stdout + done.stderr
        assert Image.open(picture).width > 500
        return list(csv.DictReader(table.read_text().splitlines())), done

    return run


def test_varcon_rows_and_verdict(kernels):
    rows, done = kernels("--varcon", "--shapes", "60x16x7", "--only", "fastvarcon closed")
    assert [row["competitor"] for row in rows] == [BASELINE, "fastvarcon closed"]
    for row in rows:
        assert float(row["wall_ms_min"]) <= float(row["wall_ms"]) <= float(row["wall_ms_max"])
        assert all(float(row[f"gradient_error_{regime}"]) < 1e-4 for regime in ("ordinary", "collapsed"))
        assert "torch=" in row["versions"] and "triton=" in row["versions"] and "kernels --device" in row["command"]
    assert rows[0]["speedup"] == rows[0]["memory_ratio"] == "1.0"
    assert "fastvarcon closed at N=60 D=16 C=7: " in done.stdout and "of its peak memory" in done.stdout
    assert "the truth in float64" in done.stderr and "round 2 of 2" in done.stderr


def test_views_rows_and_verdict(kernels):
    rows, done = kernels("--views", "--batch", "1", "4", "--only", "32 px from 32 px: fastvarcon numba")
    assert [(row["size"], row["competitor"]) for row in rows] == [
        ("224", views.BASELINE),
        ("32", views.BASELINE),
        ("32", "fastvarcon numba"),
    ]
    assert float(rows[-1]["ratio_min"]) <= float(rows[-1]["ratio_to_torchvision"]) <= float(rows[-1]["ratio_max"])
    assert done.stdout.count("x torchvision v2, float tensors (n=2 rounds") == 1


def test_who_could_not_run_is_named_with_the_reason(capsys):
    print_table("title", ("", "ms", "range"), [("torchvision", "3", "2-4"), ("kornia", "No module named 'kornia'")])
    said = capsys.readouterr().out
    assert "torchvision" in said and "could not run: kornia: No module named 'kornia'\n" in said


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ((), "--views or --varcon"),
        (("--views", "--varcon"), "--views or --varcon"),
        (("--varcon", "--shapes", "8192x128"), "as in 8192x128x1000, got 8192x128"),
        (("--varcon", "--shapes", "0x128x10"), "got 0x128x10"),
        (("--varcon", "--batch", "4", "4"), "--batch wants two numbers"),
        (("--views", "--batch", "4"), "--batch wants two numbers"),
        (("--views", "--shapes", "1x1x1"), "--shapes is for --varcon and --contrastive"),
        (("--views", "--rounds", "0"), "--rounds must be at least 1"),
        (("--views", "--seconds", "0"), "--seconds must lie between"),
        (("--views", "--csv", "nowhere/x.csv"), "make it first"),
        (("--varcon", "--shapes", "9999999x512x99999"), "choose less in --shapes"),
        (("--contrastive", "--shapes", "999999x128x10"), "choose less in --shapes"),
        (("--contrastive", "--batch", "4", "4"), "--batch wants two numbers"),
        (("--contrastive", "--varcon"), "--views or --varcon or --contrastive"),
        pytest.param(("--views", "--device", "cuda"), "no CUDA device here", marks=NO_GPU),
    ],
)
def test_mistakes_exit_2_with_a_line(monkeypatch, tmp_path, capsys, flags, message):
    from fastvarcon.cli import main

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["fastvarcon", "bench", "kernels", "--device", "cpu", *flags])
    with pytest.raises(SystemExit) as left:
        main()
    said = capsys.readouterr().err
    assert left.value.code == 2 and message in said and said.count("\n") == 1


def test_peak_counts_what_is_held_at_once():
    def call():
        first = torch.ones(1000)  # 4,000 bytes
        second = first.double()  # 8,000 more
        del first
        third = torch.ones(250)  # 1,000, when 8,000 are held
        return second, third

    assert peak_extra_bytes(call, "cpu") == 12_000


def test_several_units_in_a_call():
    assert next(repeat(lambda job: Work(lambda: job, units=4), None)) == 4


def test_bound_is_that_of_the_table():
    """docs/maths/kernels.md#flops-and-bytes: 5.3 us and 3.74 ms of tensor cores."""
    assert bound_ms(Job(8192, 128, 1000, "bfloat16", "cuda", 1)) == pytest.approx(5.3e-3, rel=0.01)
    assert bound_ms(Job(65536, 512, 22000, "bfloat16", "cuda", 1)) == pytest.approx(3.74, rel=0.01)
    assert bound_ms(Job(65536, 512, 10, "bfloat16", "cuda", 1)) == pytest.approx(1000 * 203e6 / 4.3e12, rel=0.01)


def fake_rows(device):
    shapes = [(n, d, c) for n in (1024, 65536) for d, c in ((128, 1000), (512, 22000))]
    for n, d, c in shapes:
        for name, ms in ((BASELINE, 4.0), ("fastvarcon triton", 0.1)):
            yield {
                "competitor": name, "rows": n, "dim": d, "classes": c, "dtype": "bfloat16", "machine": "H200",
                "wall_ms": ms * n / 1024, "peak_extra_mb": ms * n, "device_ms": ms / 2 if device == "cuda" else None,
            }  # fmt: skip


@pytest.mark.parametrize(("device", "panels"), [("cpu", 2), ("cuda", 3)])
def test_roofline_is_drawn_for_a_gpu_alone(monkeypatch, tmp_path, device, panels):
    drawn = []
    monkeypatch.setattr(varcon_chart.Figure, "savefig", lambda figure, path, dpi: drawn.append(figure))
    varcon_chart.draw([*fake_rows(device), {"competitor": "x", "failure": "y"}], tmp_path / "x.png")
    axes = drawn[0].axes
    assert len(axes) == 2 * panels
    labels = [line.get_label() for line in axes[-3 if device == "cuda" else 0].get_lines()]
    assert any("4NCD" in label for label in labels) == (device == "cuda")
    legend = [text.get_text() for text in drawn[0].legends[0].get_texts()]
    assert legend[:2] == [BASELINE, "fastvarcon triton"] and len(legend) == (3 if device == "cuda" else 2)


def test_all_forms_are_listed():
    assert set(varcon.forms("cuda")) >= {
        BASELINE, "reference, torch.compile", "closed form + SDPA", "closed form + cuDNN attention",
        "closed form + flex_attention, torch.compile", "fastvarcon closed",
    }  # fmt: skip
    assert len(views.competitors("cuda")) == 6


@pytest.mark.gpu
def test_times_on_a_gpu():
    n = 4096

    def setup(capturable, job):
        x = torch.randn(n, n, device="cuda")
        return Work(lambda: x @ x, capturable=capturable)

    setups = {name: functools.partial(setup, name == "graph") for name in ("graph", "events")}
    times = measure_calls(setups, None, device="cuda", rounds=2, seconds=0.05)
    for name, measured in times.items():
        assert measured.failure is None and measured.device_method == name and len(measured.device) == 2
        assert 2 * n**3 / 2e15 < measured.device[0] <= 1.5 * measured.median  # faster than any GPU cannot be
    call = setup(True, None).call
    assert peak_extra_bytes(call, "cuda") == 4 * n * n
