"""What a run says about itself: at its start, in a line of progress, and in summary.json."""

from __future__ import annotations

import os
import platform
import sys
from itertools import groupby
from typing import TYPE_CHECKING

import accelerate
import torch
import torchvision

import fastvarcon
from fastvarcon import kernels
from fastvarcon.losses.ssem import batch_threshold
from fastvarcon.training import distributed
from fastvarcon.training.meters import Clock

if TYPE_CHECKING:
    from fastvarcon.training.trainer import Run


def opening_lines(run: Run) -> list[str]:
    """All that a reader of the log should know before the first step."""
    config, data, accelerator, train = run.config, run.data, run.accelerator, run.config.train
    precision = distributed.resolve_precision(train.precision, accelerator.device.type == "cuda")
    views = kernels.views_backend(accelerator.device, distributed.COMPUTE_DTYPES[precision])
    group = f" groups of {train.bn_group} images" if train.batch_norm == "ghost" else ""
    sizes = [f"{len(list(epochs))} epochs at {size} px" for size, epochs in groupby(data.train.sizes or ())]
    average = f", encoder = moving average of decay {train.ema:g}" if train.ema else ""
    width = "" if config.model.is_timm else f" width {config.model.width:g}"
    lines = [
        f"{config.model.encoder}{width}, {config.loss.name} loss, "
        f"{len(data.classes)} classes, {data.train.num_samples} images, "
        f"{train.epochs} epochs of {run.steps_per_epoch} steps, "
        f"global batch {train.global_batch} x {config.data.num_views} views",
        f"{accelerator.num_processes} process(es) on {accelerator.device.type}, "
        f"{torch.get_num_threads()} threads each, precision {precision}, "
        f"data backend {data.images.name}, views by {views}, batch norm {train.batch_norm}{group}, "
        f"{run.images_per_pass} images a pass, compile {train.compile}",
        f"{train.optimizer}, {run.schedule.describe()}, {', '.join(sizes)}{average}",
    ]
    warning = distributed.launcher_warning(dict(os.environ), accelerator.num_processes)
    if warning:
        lines.insert(0, f"warning: {warning}")
    if config.loss.base == "ssem" and (threshold := batch_threshold(config, len(data.classes))) is not None:
        what = "up to it classes" if config.loss.alpha <= threshold else "below it classes would"
        lines.append(f"ssem: --loss.alpha {config.loss.alpha:g}, threshold {threshold:.3g}: {what} collapse to points")
    if run.step:
        done, within = divmod(run.step, run.steps_per_epoch)
        lines.append(f"resuming {run.folder.path} after epoch {done}" + (f" and {within} steps" if within else ""))
    lines += run.notes
    if run.epoch >= train.epochs:
        lines.append(f"{run.folder.path} has all its {train.epochs} epochs: nothing left to train")
    return lines


def describe(figures: dict[str, float]) -> str:
    """A line of progress."""
    parts = [f"loss {figures['loss']:.4f}"]
    if figures.get("val_knn_top1") is not None:
        parts.append(f"val kNN {figures['val_knn_top1']:.2%} centroid {figures['val_centroid_top1']:.2%}")
    parts += [f"{figures['views_per_second']:,.0f} views/s", f"data wait {figures['data_wait_fraction']:.0%}"]
    if "gpu_memory_mb" in figures:
        parts.append(f"GPU {figures['gpu_memory_mb'] / 1000:.1f} GB")
    return "  ".join(parts)


def summarise(run: Run) -> dict:
    """The content of summary.json for a finished run."""
    device, seconds = run.accelerator.device, run.clock.seconds
    return {
        "final_loss": run.epoch_figures["loss"],
        "val_knn_top1": run.epoch_figures.get("val_knn_top1"),
        "val_centroid_top1": run.epoch_figures.get("val_centroid_top1"),
        **run.clock.rates(Clock().state()),
        "epochs": run.epoch,
        "seconds": seconds,
        "save_wait_fraction": run.saver.waited / max(seconds, 1e-9),
        "world_size": run.accelerator.num_processes,
        "global_batch": run.config.train.global_batch,
        "backend": run.data.images.name,
        "replaced_images": run.data.replaced_images,
        "device": device.type,
        "device_name": distributed.device_name(device),
        "versions": {
            "fastvarcon": fastvarcon.__version__,
            "torch": torch.__version__,
            "torchvision": torchvision.__version__,
            "accelerate": accelerate.__version__,
            "python": platform.python_version(),
        },
        "command": " ".join(sys.argv),
    }
