"""`fastvarcon bench kernels --varcon`: forward and backward of VarCon, ours and what torch offers, in one run.

Rows are random unit vectors around the mean of their class: "ordinary" ones, of which a third of the squared length is
the mean, as during training, and "collapsed" ones, as at its end, where the gradient is a small difference of large
numbers. Times and memory are those of the ordinary rows, errors are shown for both.
"""

from __future__ import annotations

import datetime
import functools
import statistics
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fastvarcon.bench import varcon_baselines as baselines
from fastvarcon.bench.rows import driver, machine, versions
from fastvarcon.bench.timing import Setup, Times, Work, first_line, measure_calls, peak_extra_bytes
from fastvarcon.errors import UserError
from fastvarcon.losses.varcon import BACKENDS, varcon_loss
from fastvarcon.machine import available_memory

COLUMNS = (
    "date", "device", "shape", "rows", "dim", "classes", "dtype", "competitor", "rounds", "threads",
    "wall_ms", "wall_ms_min", "wall_ms_max", "device_ms", "device_ms_min", "device_ms_max", "device_method",
    "bound_ms", "peak_extra_mb", "speedup", "speedup_min", "speedup_max", "memory_ratio",
    "loss_error_ordinary", "gradient_error_ordinary", "loss_error_collapsed", "gradient_error_collapsed",
    "machine", "driver", "versions", "command",
)  # fmt: skip
BASELINE = "reference, eager"
REGIMES = {"ordinary": 0.7, "collapsed": 3.0}
"""Size of the class means, in units of the rows' own spread."""
REFERENCE_TENSORS = 12  # of N x C float32: more than docs/maths/kernels.md#memory-of-the-equations counts at the peak
PEAK_FLOPS, PEAK_BYTES = 790e12, 4.3e12  # an H200's, a second, as measured with large matrices and copies
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class Job:
    rows: int
    dim: int
    classes: int
    dtype: str
    device: str
    threads: int

    @property
    def name(self) -> str:
        return f"N={self.rows} D={self.dim} C={self.classes}"

    def data(self, regime: str) -> tuple[Tensor, Tensor]:
        """Unit rows [N, D], which want a gradient, and labels [N]."""
        generator = torch.Generator(device=self.device).manual_seed(0)
        options: dict[str, Any] = {"generator": generator, "device": self.device}
        labels = torch.randint(self.classes, (self.rows,), **options)
        means = REGIMES[regime] * torch.randn(self.classes, self.dim, **options)
        z = F.normalize(torch.randn(self.rows, self.dim, **options) + means[labels], dim=1)
        return z.to(DTYPES[self.dtype]).requires_grad_(), labels


Loss = Callable[[Tensor, Tensor, int], Tensor]
"""(z, labels, num_classes) -> loss, of each row or their mean."""


@dataclass(frozen=True)
class Form:
    loss: Loss
    compiled: bool = False
    waits: bool = False
    """For the GPU, to be told which classes are present."""

    def function(self) -> Loss:
        return torch.compile(self.loss, dynamic=False) if self.compiled else self.loss


def forms(device: str) -> dict[str, Form]:
    """The competitors by name."""
    sdpa, cudnn, flex = (
        functools.partial(baselines.attention, attend=attend)
        for attend in (baselines.flash, baselines.cudnn, baselines.flex)
    )
    reference = functools.partial(ours, "reference")
    found = {
        BASELINE: Form(reference, waits=True),
        "reference, torch.compile": Form(reference, compiled=True, waits=True),
        "reference with static shapes, torch.compile": Form(baselines.static_reference, compiled=True),
        "closed form + SDPA": Form(sdpa),
    }
    if device == "cuda":
        found["closed form + cuDNN attention"] = Form(cudnn)
        found["closed form + flex_attention, torch.compile"] = Form(flex, compiled=True)
    else:  # compiled for a CPU, flex_attention has no logsumexp
        found["closed form + flex_attention, eager"] = Form(flex)
    for backend in BACKENDS:
        if backend not in ("auto", "reference"):
            found[f"fastvarcon {backend}"] = Form(functools.partial(ours, backend))
    return found


def ours(backend: str, z: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    return varcon_loss(z, labels, num_classes, backend=backend)


def setup(form: Form, job: Job) -> Work:
    """Forward and backward."""
    if job.device == "cpu":
        torch.set_num_threads(job.threads)
    warnings.filterwarnings("ignore", "flex_attention called without torch.compile")  # its row says so
    z, labels = job.data("ordinary")
    call = functools.partial(loss_and_gradient, form.function(), z, labels, job.classes)
    return Work(call, capturable=not form.waits)


def loss_and_gradient(loss: Loss, z: Tensor, labels: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
    value = loss(z, labels, num_classes).mean()
    return value.detach(), torch.autograd.grad(value, z)[0]


@dataclass(frozen=True)
class Subject:
    """A loss that is measured."""

    title: str
    forms: Callable[[str], dict[str, Form]]
    """Competitors by name, for a device; BASELINE is one of them."""
    truth: Callable[[Tensor, Tensor, int], tuple[Tensor, Tensor]]
    """Mean loss and gradient in float64."""
    bound_ms: Callable[[Job], float]
    bound_label: str
    similarities: Callable[[Job], int]
    """Elements of the matrix that the reference makes again and again."""


def check_memory(subject: Subject, jobs: list[Job]) -> None:
    """Before hours of measuring: on the CPU a process that takes too much is killed, and maybe another one with it.

    Raises:
        UserError: the similarities of the reference would not fit.
    """
    free = available_memory()
    for job in jobs:
        need = 4 * REFERENCE_TENSORS * subject.similarities(job)
        if job.device == "cpu" and need > 0.8 * free:
            raise UserError(
                f"{job.name} takes {need / 1e9:,.0f} GB, {free / 1e9:,.0f} are free: choose less in --shapes"
            )


def bench_loss(
    subject: Subject,
    job: Job,
    *,
    rounds: int,
    seconds: float,
    only: tuple[str, ...],
    command: str,
    on_step: Callable[[str], None],
) -> list[dict]:
    """Rows of COLUMNS, one per competitor; one that cannot run says why in `failure`.

    Where the baseline could not run, out of memory say, the others are not compared to it.
    """
    torch.compiler.reset()  # or a second shape would get code for all shapes
    chosen = {
        name: form
        for name, form in subject.forms(job.device).items()
        if name == BASELINE or not only or any(part in name for part in only)
    }
    truths, memory, errors, failures = {}, {}, {}, {}
    for regime in REGIMES:
        on_step(f"{job.name}: the truth in float64, {regime}")
        truths[regime] = subject.truth(*job.data(regime), job.classes)
    for name, form in chosen.items():
        on_step(f"{job.name}: {name}: memory and error")
        try:
            memory[name] = peak_extra_bytes(setup(form, job).call, job.device) / 1e6
            errors[name] = {regime: _errors(form, job, regime, truths[regime]) for regime in REGIMES}
        except Exception as error:
            failures[name] = first_line(error)
        if job.device == "cuda":
            torch.cuda.empty_cache()
    setups: dict[str, Setup] = {
        name: functools.partial(setup, form) for name, form in chosen.items() if name not in failures
    }
    steps = {"on_step": lambda step: on_step(f"{job.name}: {step}")}
    times = measure_calls(setups, job, device=job.device, rounds=rounds, seconds=seconds, **steps)
    failures |= {name: measured.failure for name, measured in times.items() if measured.failure}
    facts = {
        "date": datetime.date.today().isoformat(),
        "device": job.device,
        "shape": job.name,
        "rows": job.rows,
        "dim": job.dim,
        "classes": job.classes,
        "dtype": job.dtype,
        "rounds": rounds,
        "threads": job.threads if job.device == "cpu" else "",
        "bound_ms": float(f"{subject.bound_ms(job):.4g}") if job.device == "cuda" else "",
        "machine": machine(),
        "driver": driver(),
        "versions": versions(),
        "command": command,
    }
    rows = []
    for name in chosen:
        row = {**facts, "competitor": name}
        if name in failures:
            rows.append({**row, "failure": failures[name]})
            continue
        for regime, (of_loss, of_gradient) in errors[name].items():
            row |= {f"loss_error_{regime}": f"{of_loss:.2e}", f"gradient_error_{regime}": f"{of_gradient:.2e}"}
        row |= _figures(times[name], memory[name])
        if BASELINE not in failures:
            row |= _comparison(times[name], times[BASELINE], memory[name] / memory[BASELINE])
        rows.append(row)
    return rows


def _errors(form: Form, job: Job, regime: str, truth: tuple[Tensor, Tensor]) -> tuple[float, float]:
    """Relative error of the loss, and of the gradient in the Frobenius norm."""
    value, gradient = loss_and_gradient(form.function(), *job.data(regime), job.classes)
    expected, wanted = truth
    return float((value - expected).abs() / expected.abs()), float((gradient - wanted).norm() / wanted.norm())


def _figures(times: Times, memory: float) -> dict:
    figures = {"wall_ms": times.median, "wall_ms_min": min(times.wall), "wall_ms_max": max(times.wall)}
    if times.device:
        figures |= {
            "device_ms": statistics.median(times.device),
            "device_ms_min": min(times.device),
            "device_ms_max": max(times.device),
        }
    figures = {name: float(f"{1000 * seconds:.4g}") for name, seconds in figures.items()}
    return {**figures, "peak_extra_mb": float(f"{memory:.4g}"), "device_method": times.device_method}


def _comparison(times: Times, base: Times, memory_ratio: float) -> dict:
    speedups = [theirs / ours for theirs, ours in zip(base.wall, times.wall, strict=True)]
    figures = {
        "speedup": base.median / times.median,
        "speedup_min": min(speedups),
        "speedup_max": max(speedups),
        "memory_ratio": memory_ratio,
    }
    return {name: float(f"{ratio:.4g}") for name, ratio in figures.items()}


def bound_ms(job: Job) -> float:
    """The least an H200 needs: 4 N C D flops, or to read z twice and write dz, class sums, w and six numbers a row."""
    flops = 4 * job.rows * job.classes * job.dim
    moved = 6 * job.rows * job.dim + 6 * job.classes * job.dim + 24 * job.rows
    return 1000 * max(flops / PEAK_FLOPS, moved / PEAK_BYTES)


def verdict(rows: list[dict]) -> list[str]:
    """What each of ours is to the reference, a line for each shape."""
    lines = []
    for row in rows:
        if row["competitor"].startswith("fastvarcon") and "speedup" in row:
            lines.append(
                f"{row['competitor']} at {row['shape']}: {row['speedup']:.2f}x the reference in time "
                f"(n={row['rounds']} rounds, {row['speedup_min']:.2f} to {row['speedup_max']:.2f}), "
                f"{row['memory_ratio']:.2f} of its peak memory ({row['peak_extra_mb']:.1f} MB)"
            )
    return lines


VARCON = Subject(
    "VarCon",
    forms,
    baselines.truth,
    bound_ms,
    "bound on an H200: 4NCD at 790 TFLOP/s, 4.3 TB/s",
    similarities=lambda job: job.rows * job.classes,
)
