"""Training, top to bottom: processes, data, model, loop, checkpoint, summary.

A step: views of this rank -> z_ND unit rows -> loss of the global batch -> gradient of the global mean -> SGD. The
loss gives each rank its part of the global gradient; DDP then averages over ranks, so the loss is multiplied by the
world size before `backward`. (The reference code lacks that factor: its effective learning rate shrinks with the
number of GPUs, spec/varcon.md 6.1.) Nothing in a step waits for the device; figures are read every `log_every` steps.
"""

from __future__ import annotations

import math
import os
import platform
import sys
from contextlib import ExitStack

import accelerate
import torch
import torchvision
from accelerate import Accelerator

import fastvarcon
from fastvarcon import kernels
from fastvarcon.config import Config
from fastvarcon.errors import UserError
from fastvarcon.evaluation.features import extract
from fastvarcon.evaluation.knn import accuracy, headline_k, knn_predict, nearest_mean
from fastvarcon.losses import build_loss
from fastvarcon.losses.monitor import NsclMonitor
from fastvarcon.models import ContrastiveModel
from fastvarcon.models.batch_norm import synchronise
from fastvarcon.progress import format_seconds
from fastvarcon.run_folder import RunFolder, write_json
from fastvarcon.training import distributed
from fastvarcon.training.checkpoint import load_checkpoint, save_checkpoint, save_tensors
from fastvarcon.training.data import RunData
from fastvarcon.training.histograms import Histograms
from fastvarcon.training.meters import Clock, Meter, gpu_memory
from fastvarcon.training.optim import (
    add_criterion,
    build_optimizer,
    learning_rate,
    restore_optimizer,
    set_learning_rate,
)
from fastvarcon.training.profiling import StepProfiler
from fastvarcon.training.trackers import require_packages, start_trackers
from fastvarcon.training.tracking import Display, MetricsLog


def train(config: Config) -> dict:
    """Train the encoder that `config` describes, or resume it, and return what `summary.json` holds.

    Raises:
        UserError: before the first step for settings, files and folders that do not fit together; later for a
            broken image or a loss that is no longer finite.
    """
    config.validate()
    require_packages(config)
    folder = RunFolder(config.out)
    folder.check(config)
    accelerator = distributed.make_accelerator(config.train)
    with ExitStack() as stack:
        with distributed.together(accelerator.device):
            data = stack.enter_context(RunData(config, accelerator))
            if accelerator.is_main_process:
                folder.lock()
                stack.callback(folder.unlock)
                write_json(folder.config, config.flat())
        with distributed.together(accelerator.device):
            run = Run(config, folder, accelerator, data)
        return run.fit()


class Run:
    """One process of one training run."""

    def __init__(self, config: Config, folder: RunFolder, accelerator: Accelerator, data: RunData):
        self.config, self.folder, self.accelerator, self.data = config, folder, accelerator, data
        self.group = distributed.process_group()
        torch.manual_seed(config.train.seed)  # the same weights on every rank
        classes = len(data.classes) if config.loss.name == "cross_entropy" else None
        model = ContrastiveModel(config.model, classes).to(accelerator.device, memory_format=torch.channels_last)
        if config.train.batch_norm == "sync" and self.group is not None:
            model = synchronise(model, accelerator.device, self.group)
        optimizer = build_optimizer(model, config.train, accelerator.device)
        self.views_per_step = config.train.global_batch * config.data.num_views
        self.criterion = build_loss(
            config.loss,
            len(data.classes),
            self.group,
            num_views=config.data.num_views,
            dim=config.model.head_dim,
            max_rows=self.views_per_step,
        ).to(accelerator.device)
        add_criterion(optimizer, self.criterion)
        self.model, self.optimizer = accelerator.prepare(model, optimizer)
        self.monitor = None
        if config.monitor.nscl:
            views, backend = config.data.num_views, config.loss.backend
            self.monitor = NsclMonitor(len(data.classes), num_views=views, group=self.group, backend=backend)
        self.steps_per_epoch = len(data.train)
        self.total_steps = self.steps_per_epoch * config.train.epochs
        self.step = self.epoch = 0  # done so far
        self.clock = Clock()
        self.histograms = Histograms(config.loss, accelerator.device, self.group)
        self.epoch_figures: dict[str, float] = {}
        distributed.require_same(folder.resumable, "checkpoints", accelerator.device)
        if folder.resumable:
            self._restore(load_checkpoint(folder.last))
        distributed.require_same(self.step, "checkpoints", accelerator.device)
        self.resumed_at = self.epoch
        trackers = start_trackers(config, accelerator)
        self.log = MetricsLog(folder.metrics, self.step, trackers) if accelerator.is_main_process else None
        self.display = Display(self.total_steps, self.step, enabled=accelerator.is_main_process)
        traced = config.train.profile if accelerator.is_main_process else 0
        self.profiler = StepProfiler(traced, folder.path / "profile" / "trace.json", self.display.say)

    # ---- the loop --------------------------------------------------------------------------------------------------

    def fit(self) -> dict:
        train = self.config.train
        try:
            self._announce()
            while self.epoch < train.epochs:
                self.epoch_figures = self._train_epoch()
                self.epoch += 1
                if self.data.val is not None and (self.epoch % train.val_every == 0 or self.epoch == train.epochs):
                    self.epoch_figures |= self._validate()
                self._write("epoch", self.epoch_figures)
                self.display.say(f"epoch {self.epoch}/{train.epochs}  {_describe(self.epoch_figures)}")
                self._save()
            return self._summarise()
        finally:
            self.profiler.close()
            self.display.close()
            if self.log is not None:
                self.log.close()

    def _train_epoch(self) -> dict[str, float]:
        """One pass over the data. Returns the figures of the whole epoch."""
        meter = Meter(self.accelerator.device, self.group)
        epoch_start = interval_start = self.clock.state()
        end = self.step + self.steps_per_epoch
        self.model.train()
        self.data.train.set_epoch(self.epoch)
        self.clock.start()
        for views, labels, _ in self.data.train:
            self.clock.got_data()
            rate = self._update(views, labels, meter)
            log = self.step % self.config.train.log_every == 0 or self.step == end
            figures = meter.read() if log else {}
            self.clock.worked(self.views_per_step)
            if log:
                self._require_finite(figures["loss"])
                figures |= self.clock.rates(interval_start) | gpu_memory(self.accelerator.device)
                interval_start = self.clock.state()
                self._write("step", {"lr": rate, **figures})
                self.display.step(self.step, _describe(figures))
        if not all(parameter.isfinite().all() for parameter in self.model.parameters()):
            self._require_finite(math.nan)  # the last update may have spoilt what no loss has seen yet
        return meter.read_all() | self.clock.rates(epoch_start) | self.histograms.read()

    def _update(self, views: torch.Tensor, labels: torch.Tensor, meter: Meter) -> float:
        """One optimiser step; returns its learning rate."""
        train = self.config.train
        rate = learning_rate(
            self.step,
            total_steps=self.total_steps,
            peak=train.lr,
            warmup_steps=round(train.warmup_epochs * self.steps_per_epoch),
        )
        set_learning_rate(self.optimizer, rate)
        z_ND = self.model(views)
        labels = labels.repeat(self.config.data.num_views)
        loss, stats = self.criterion.with_stats(z_ND, labels)
        if self.monitor is not None:
            stats = {**stats, **self.monitor(z_ND.detach(), labels)}
        self.accelerator.backward(loss * self.accelerator.num_processes)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        meter.add(loss, stats)
        self.histograms.add(stats)
        self.profiler.step()
        self.step += 1
        return rate

    def _validate(self) -> dict[str, float]:
        """kNN and nearest-mean accuracy of the held-out images, on the first rank; the others wait."""
        top1: dict[str, float] = {}
        if self.accelerator.is_main_process:
            encoder, device = self._bare_model().encoder, self.accelerator.device
            bank_x, bank_y = (t.to(device) for t in extract(encoder, self.data.bank, device))
            val_x, val_y = (t.to(device) for t in extract(encoder, self.data.val, device))
            k = min(headline_k((20,)), len(bank_x))
            classes = len(self.data.classes)
            top1["val_knn_top1"] = accuracy(knn_predict(bank_x, bank_y, val_x, classes, (k,))[k], val_y)
            top1["val_centroid_top1"] = accuracy(nearest_mean(bank_x, bank_y, val_x, classes), val_y)
        self.accelerator.wait_for_everyone()
        return top1

    # ---- what is said, written and kept ----------------------------------------------------------------------------

    def _announce(self) -> None:
        config, data, accelerator = self.config, self.data, self.accelerator
        warning = distributed.launcher_warning(dict(os.environ), accelerator.num_processes)
        if warning:
            self.display.say(f"warning: {warning}")
        precision = distributed.resolve_precision(config.train.precision, accelerator.device.type == "cuda")
        views = kernels.views_backend(accelerator.device, distributed.COMPUTE_DTYPES[precision])
        self.display.say(
            f"{config.model.encoder} width {config.model.width:g}, {config.loss.name} loss, "
            f"{len(data.classes)} classes, {data.train.num_samples} images, "
            f"{config.train.epochs} epochs of {self.steps_per_epoch} steps, "
            f"global batch {config.train.global_batch} x {config.data.num_views} views"
        )
        self.display.say(
            f"{accelerator.num_processes} process(es) on {accelerator.device.type}, "
            f"{torch.get_num_threads()} threads each, precision {precision}, "
            f"data backend {data.images.name}, views by {views}, batch norm {config.train.batch_norm}"
        )
        if self.epoch:
            self.display.say(f"resuming {self.folder.path} after epoch {self.epoch}")
        if self.epoch >= config.train.epochs:
            self.display.say(f"{self.folder.path} has all its {config.train.epochs} epochs: nothing left to train")

    def _require_finite(self, loss: float) -> None:
        if not math.isfinite(loss):
            raise UserError(
                f"the loss or a weight is not finite at step {self.step}: lower --train.lr or lengthen "
                f"--train.warmup-epochs, and give a new --out"
            )

    def _write(self, kind: str, figures: dict) -> None:
        if self.log is not None:
            self.log.write({"kind": kind, "epoch": self.epoch, "step": self.step, **figures})

    def _bare_model(self) -> ContrastiveModel:
        return self.accelerator.unwrap_model(self.model)

    def _save(self) -> None:
        """checkpoints/last, the encoder, and checkpoints/epoch-NNN where due. On the first rank."""
        if not self.accelerator.is_main_process:
            return
        model = self._bare_model()
        state = {
            "epoch": self.epoch,
            "step": self.step,
            "data": self._data_identity(),
            "clock": self.clock.state(),
            "figures": self.epoch_figures,
            "model": model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "criterion": self.criterion.state_dict(),
        }
        if self.accelerator.scaler is not None:
            state["scaler"] = self.accelerator.scaler.state_dict()
        save_tensors(self.folder.encoder, model.encoder.state_dict())
        every = self.config.train.save_every
        if every and self.epoch % every == 0:
            save_checkpoint(self.folder.kept(self.epoch), state)
        save_checkpoint(self.folder.last, state)

    def _data_identity(self) -> dict:
        return {"images": self.data.train.num_samples, "classes": self.data.classes}

    def _restore(self, state: dict) -> None:
        if state["data"] != self._data_identity():
            raise UserError(
                f"{self.config.data.train} has changed since {self.folder.path} was begun (it had "
                f"{state['data']['images']} images of {len(state['data']['classes'])} classes): "
                "give a new --out, or the old file to resume"
            )
        self._bare_model().load_state_dict(state["model"])
        restore_optimizer(self.optimizer, state["optimizer"])
        self.criterion.load_state_dict(state.get("criterion", {}))  # of before it had a state: nothing to restore
        if self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        self.epoch, self.step, self.epoch_figures = state["epoch"], state["step"], state["figures"]
        self.clock = Clock(**state["clock"])

    def _summarise(self) -> dict:
        """Write and return summary.json. Scores of an earlier encoder go."""
        whole_run = self.clock.rates(Clock().state())
        summary = {
            "final_loss": self.epoch_figures["loss"],
            "val_knn_top1": self.epoch_figures.get("val_knn_top1"),
            "val_centroid_top1": self.epoch_figures.get("val_centroid_top1"),
            **whole_run,
            "epochs": self.epoch,
            "seconds": self.clock.seconds,
            "world_size": self.accelerator.num_processes,
            "global_batch": self.config.train.global_batch,
            "backend": self.data.images.name,
            "replaced_images": self.data.replaced_images,
            "device": self.accelerator.device.type,
            "device_name": distributed.device_name(self.accelerator.device),
            "versions": _versions(),
            "command": " ".join(sys.argv),
        }
        if self.accelerator.is_main_process and not self._already_summarised():
            write_json(self.folder.summary, summary)
        self.display.say(f"trained in {format_seconds(self.clock.seconds)}: {self.folder.path}")
        return summary

    def _already_summarised(self) -> bool:
        """A finished run that is started again changes nothing, so that its scores stay."""
        return self.resumed_at == self.config.train.epochs and self.folder.read_summary() is not None


def _describe(figures: dict[str, float]) -> str:
    parts = [f"loss {figures['loss']:.4f}"]
    if figures.get("val_knn_top1") is not None:
        parts.append(f"val kNN {figures['val_knn_top1']:.2%} centroid {figures['val_centroid_top1']:.2%}")
    parts += [f"{figures['views_per_second']:,.0f} views/s", f"data wait {figures['data_wait_fraction']:.0%}"]
    if "gpu_memory_mb" in figures:
        parts.append(f"GPU {figures['gpu_memory_mb'] / 1000:.1f} GB")
    return "  ".join(parts)


def _versions() -> dict[str, str]:
    return {
        "fastvarcon": fastvarcon.__version__,
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "accelerate": accelerate.__version__,
        "python": platform.python_version(),
    }
