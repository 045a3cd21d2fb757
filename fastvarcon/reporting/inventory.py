"""What a machine has: versions, cores, GPUs, data backends, optional packages."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import platform

import torch

import fastvarcon
from fastvarcon.kernels import views_cpu
from fastvarcon.kernels.numba_cache import cache_place
from fastvarcon.machine import available_cores, available_memory, cpu_name

PACKAGES = ("torch", "torchvision", "triton", "accelerate", "numba", "simplejpeg")
OPTIONAL = {
    "timm": "fastvarcon[timm]",
    "onnxruntime": "fastvarcon[onnx]",
    "pyarrow": "fastvarcon[parquet]",
    "wandb": "wandb",
    "mlflow": "mlflow",
}


def inventory() -> list[tuple[str, str]]:
    """(what, what was found), in the order in which a reader wants it."""
    versions = [f"fastvarcon {fastvarcon.__version__}", f"python {platform.python_version()}"]
    versions += [f"{name} {_version(name) or 'missing'}" for name in PACKAGES]
    rows = [
        ("versions", ", ".join(versions)),
        ("CPU", f"{available_cores()} cores of {cpu_name()}, {available_memory() / 1e9:,.0f} GB of memory free"),
        *_gpus(),
        ("compiled CPU kernels", cache_place(views_cpu.kernel())),
        *((f"--data.backend {name}", state) for name, state in _backends().items()),
    ]
    found = [f"{name} {_version(name)}" for name in OPTIONAL if _version(name)]
    lacking = [f"{name} (pip install '{source}')" for name, source in OPTIONAL.items() if not _version(name)]
    return [
        *rows,
        ("optional, found", ", ".join(found) or "none"),
        ("optional, not found", ", ".join(lacking) or "none"),
    ]


def gpu_count() -> int:
    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def _gpus() -> list[tuple[str, str]]:
    if not gpu_count():
        return [
            (
                "GPU",
                "none that torch can use" + (f" (built for CUDA {torch.version.cuda})" if torch.version.cuda else ""),
            )
        ]
    rows = []
    for index in range(gpu_count()):
        facts = torch.cuda.get_device_properties(index)
        half = "bf16" if torch.cuda.is_bf16_supported() else "no bf16: use --train.precision fp16"
        rows.append(
            (f"GPU {index}", f"{facts.name}, {facts.total_memory / 1e9:,.0f} GB, sm_{facts.major}{facts.minor}, {half}")
        )
    return rows


def _backends() -> dict[str, str]:
    """Backend -> "ready", or what it lacks."""
    on_gpu = gpu_count() > 0
    dali = _version("nvidia-dali-cuda120") or _version("nvidia-dali-cuda130")
    ffcv = importlib.util.find_spec("ffcv") is not None
    return {
        "cpu": "ready",
        "resident": "ready",
        "nvjpeg": "ready" if on_gpu else "needs a GPU",
        "dali": f"ready, decodes on the {'GPU' if on_gpu else 'CPU'}" if dali else "pip install 'fastvarcon[dali]'",
        "ffcv": "ready" if ffcv else "pip install 'fastvarcon[ffcv]'",
        "folder": "ready (slow reference)",
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
