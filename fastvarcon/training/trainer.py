"""Training, top to bottom: processes, data, model, loop, checkpoint, summary.

A step: views of this rank -> z_ND unit rows -> loss of the global batch -> gradient of the global mean -> update. The
loss gives each rank its part of the global gradient; DDP then averages over ranks, so the loss is multiplied by the
world size before `backward`. (The reference code lacks that factor: its effective learning rate shrinks with the
number of GPUs, docs/maths/varcon.md#gradient-scale.)

Nothing in a step waits for the device. Every `log_every` steps host, device and ranks meet: figures are read, a loss
that is not finite is noticed, a request to stop is agreed on and a checkpoint is taken, so that none of them costs a
wait of its own.
"""

from __future__ import annotations

import math
import time
from contextlib import ExitStack
from typing import Any

import torch
from accelerate import Accelerator

from fastvarcon import bus_error
from fastvarcon.config import Config
from fastvarcon.errors import UserError
from fastvarcon.models.encoders import Encoder
from fastvarcon.models.timm_encoders import draws_at_random, require_timm
from fastvarcon.progress import format_seconds
from fastvarcon.run_folder import RunFolder, run_identity
from fastvarcon.training import distributed
from fastvarcon.training.data import RunData
from fastvarcon.training.histograms import Histograms
from fastvarcon.training.meters import Clock, Meter, gpu_memory
from fastvarcon.training.micro_batch import forward_backward, images_per_pass
from fastvarcon.training.network import build_parts
from fastvarcon.training.optim import add_criterion, build_optimizer, restore_optimizer, set_learning_rate
from fastvarcon.training.profiling import StepProfiler
from fastvarcon.training.resume import Resumed, resume
from fastvarcon.training.saver import Saver
from fastvarcon.training.schedules import Schedule
from fastvarcon.training.signals import StopRequest
from fastvarcon.training.summary import describe, opening_lines, summarise
from fastvarcon.training.trackers import require_packages, start_trackers
from fastvarcon.training.tracking import Display, MetricsLog
from fastvarcon.training.validation import held_out_accuracy


def train(config: Config) -> dict | None:
    """Train the encoder that `config` describes, or resume it, and return what `summary.json` holds.

    None if a signal has ended it early: then the run is saved, and the same call resumes it.

    Raises:
        UserError: before the first step for settings, files and folders that do not fit together; later for a
            broken image or a loss that is no longer finite.
    """
    config.validate()
    require_packages(config)
    if config.model.is_timm:
        require_timm(config.model.encoder)
    folder = RunFolder(config.out)
    folder.check(config)
    with ExitStack() as stack:
        images = filter(None, (config.data.train, config.data.val))
        stack.enter_context(bus_error.explained(" or ".join(map(str, images))))
        stack.enter_context(distributed.own_accelerate_state())
        accelerator = distributed.make_accelerator(config.train)
        with distributed.together(accelerator.device):
            data = stack.enter_context(RunData(config, accelerator))
            images_per_pass(config.train, accelerator.num_processes)  # refuses before the folder is made
            if accelerator.is_main_process:
                folder.lock()
                stack.callback(folder.unlock)
        content, remedy = data.images.content, "--data.train must name the same ones on every machine"
        distributed.require_same(content.number, "training images", remedy, accelerator.device)
        with distributed.together(accelerator.device):
            resumed = resume(folder, config, content, data.train.num_samples)
        with distributed.together(accelerator.device):
            if accelerator.is_main_process:
                folder.begin(config, content.identity)
            run = Run(config, folder, accelerator, data, resumed)
        return run.fit()


class Run:
    """One process of one training run."""

    def __init__(
        self,
        config: Config,
        folder: RunFolder,
        accelerator: Accelerator,
        data: RunData,
        resumed: Resumed | None = None,
    ):
        self.config, self.folder, self.accelerator, self.data = config, folder, accelerator, data
        self.images_per_pass = images_per_pass(config.train, accelerator.num_processes)
        train, device = config.train, accelerator.device
        self.group = distributed.process_group()
        self.steps_per_epoch = len(data.train)
        self.total_steps = self.steps_per_epoch * train.epochs
        self.schedule = Schedule(train, self.steps_per_epoch)
        parts = build_parts(config, len(data.classes), device, self.group)
        self.network, self.criterion, self.monitor, self.ema = parts
        self.draws = draws_at_random(self.network)
        optimizer = build_optimizer(self.network, train, device)
        add_criterion(optimizer, self.criterion)
        self.model, self.optimizer = accelerator.prepare(self.network, optimizer)  # the same, wrapped
        self.meter, self.clock, self.stop = Meter(device, self.group), Clock(), StopRequest()
        self.histograms = Histograms(config.loss, device, self.group)
        self.epoch_figures: dict[str, Any] = {}
        self.step = 0  # steps done so far
        self.epoch_began = self.clock.state()
        self.saved_at = (self.step, time.monotonic())
        self.notes = [*data.notes]
        warnings, waiting = [*data.warnings], ""
        if resumed is not None:
            self._restore(resumed.state)
            self.notes += resumed.notes
            warnings += resumed.warnings
            waiting = resumed.state.get("waiting_rows", "")
        shared = "--out must be on a disk that all machines share"
        distributed.require_same(self.step, "checkpoints", shared, device)
        self.resumed_at = self.step
        trackers = start_trackers(config, accelerator)
        self.display = Display(self.total_steps, self.step, enabled=accelerator.is_main_process)
        for warning in warnings:
            self._warn(warning)
        self.log = None
        if accelerator.is_main_process:
            self.log = MetricsLog(folder.metrics, self.step, trackers, waiting=waiting, warn=self._warn)
        last_is_good = resumed is not None and not resumed.warnings
        self.saver = Saver(folder, run_identity(config), train.keep, self._warn, last_is_good=last_is_good)
        traced = train.profile if accelerator.is_main_process else 0
        self.profiler = StepProfiler(traced, folder.path / "profile" / "trace.json", self.display.say)

    @property
    def epoch(self) -> int:
        """Epochs done so far."""
        return self.step // self.steps_per_epoch

    @property
    def encoder(self) -> Encoder:
        """What is evaluated and exported."""
        return (self.network if self.ema is None else self.ema.model).encoder

    # ---- the loop --------------------------------------------------------------------------------------------------

    def fit(self) -> dict | None:
        train = self.config.train
        try:
            with self.stop:
                for line in opening_lines(self):
                    self.display.say(line)
                while self.epoch < train.epochs:
                    if not self._train_epoch():
                        self._leave()
                        return None
                    if self.data.val is not None and (self.epoch % train.val_every == 0 or self.epoch == train.epochs):
                        self.epoch_figures |= self._validate()
                    self._write("epoch", self.epoch_figures)
                    self.display.say(f"epoch {self.epoch}/{train.epochs}  {describe(self.epoch_figures)}")
                    self._begin_epoch()
                    self._save(epoch_end=True)
                    if self.stop.agreed(self.accelerator.device, self.group) and self.epoch < train.epochs:
                        self._leave()
                        return None
                self.saver.finish()
                return self._summarise()
        finally:
            self.saver.wait()
            self.profiler.close()
            self.display.close()
            if self.log is not None:
                self.log.close()

    def _begin_epoch(self) -> None:
        self.meter, self.epoch_began = Meter(self.accelerator.device, self.group), self.clock.state()

    def _train_epoch(self) -> bool:
        """The rest of the epoch; sets its figures. False if the run was asked to stop, and is saved."""
        interval_began = self.clock.state()
        end = (self.epoch + 1) * self.steps_per_epoch
        self.model.train()
        self.data.train.load_state_dict(self._position())
        self.clock.start()
        for views, labels, _ in self.data.train:
            self.clock.got_data()
            rate = self.update(views, labels)
            alone_and_asked = self.group is None and self.stop.name is not None
            meet = self.step % self.config.train.log_every == 0 or self.step == end or alone_and_asked
            figures = self.meter.read() if meet else {}
            self.clock.worked(self.config.train.global_batch * self.config.data.num_views)
            if not meet:
                continue
            self._require_finite(figures["loss"])
            figures |= self.clock.rates(interval_began) | gpu_memory(self.accelerator.device)
            interval_began = self.clock.state()
            self._write("step", {"lr": rate, **figures})
            self.display.step(self.step, describe(figures))
            self.histograms.gather()
            self._average_buffers()
            if self.step < end and self._save_or_stop():
                return False
        if not all(parameter.isfinite().all() for parameter in self.model.parameters()):
            self._require_finite(math.nan)  # the last update may have spoilt what no loss has seen yet
        self.epoch_figures = self.meter.read_all() | self.clock.rates(self.epoch_began) | self.histograms.read()
        return True

    def update(self, views: torch.Tensor, labels: torch.Tensor) -> float:
        """One optimiser step; returns its learning rate."""
        rate = self.schedule(self.step)
        set_learning_rate(self.optimizer, rate)
        if self.draws:  # drop path: of this step and rank, so that a resume repeats it
            distributed.seed_draws(self.config.train.seed, self.step, self.accelerator.process_index)
        loss, stats = forward_backward(
            self.model,
            self._objective,
            views,
            labels,
            self.images_per_pass,
            lambda loss: self.accelerator.backward(loss * self.accelerator.num_processes),
        )
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        if self.ema is not None:
            self.ema.update(self.step)
        self.meter.add(loss, stats)
        self.histograms.add(stats)
        self.profiler.step()
        return rate

    def _objective(self, z_ND: torch.Tensor, labels_N: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        loss, stats = self.criterion.with_stats(z_ND, labels_N)
        return loss, stats if self.monitor is None else {**stats, **self.monitor(z_ND.detach(), labels_N)}

    def _save_or_stop(self) -> bool:
        """Within an epoch: save where it is time to. True if the run is to stop: then it is saved."""
        train = self.config.train
        stop = self.stop.agreed(self.accelerator.device, self.group) is not None
        steps, seconds = self.step - self.saved_at[0], time.monotonic() - self.saved_at[1]
        due = 0 < train.save_steps <= steps or 0 < 60 * train.save_minutes <= seconds
        if stop or (due and not self.saver.busy):
            self._save()
            self.clock.start()
        return stop

    def _validate(self) -> dict[str, float]:
        """Accuracy on the held-out images, on the first rank; the others wait."""
        first = self.accelerator.is_main_process
        top1 = held_out_accuracy(self.encoder, self.data, self.accelerator.device) if first else {}
        self.accelerator.wait_for_everyone()
        return top1

    # ---- what is kept ----------------------------------------------------------------------------------------------

    def _save(self, epoch_end: bool = False) -> None:
        """checkpoints/last; at the end of an epoch the encoder too, and checkpoints/epoch-NNN where due. First rank."""
        self.saved_at = (self.step, time.monotonic())
        if not self.accelerator.is_main_process:
            return
        state = {
            "step": self.step,
            "data": self.data.images.content.identity,
            "clock": self.clock.state(),
            "epoch_began": self.epoch_began,
            "meter": self.meter.state(),
            "histograms": self.histograms.state(),
            "figures": self.epoch_figures,
            "waiting_rows": self.log.waiting if self.log is not None else "",
            "scaler": self.accelerator.scaler and self.accelerator.scaler.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            **{name: module.state_dict() for name, module in self._modules().items()},
        }
        every = self.config.train.save_every
        self.saver.save(
            state,
            encoder=f"/{'model' if self.ema is None else 'ema'}/encoder." if epoch_end else None,
            kept_epoch=self.epoch if epoch_end and every and self.epoch % every == 0 else None,
        )

    def _restore(self, state: dict) -> None:
        for name, module in self._modules().items():
            module.load_state_dict(state[name])
        restore_optimizer(self.optimizer, state["optimizer"])
        if self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        self.step, self.epoch_figures, self.epoch_began = state["step"], state["figures"], state["epoch_began"]
        self.clock = Clock(**state["clock"])
        self.meter.restore(state["meter"])
        self.histograms.restore(state["histograms"])

    def _modules(self) -> dict[str, torch.nn.Module]:
        modules = {"model": self.network, "criterion": self.criterion}
        return modules if self.ema is None else {**modules, "ema": self.ema.model}

    def _position(self) -> dict[str, int]:
        """Where in the data the run stands: a function of the steps done, for every number of processes."""
        epoch, step = divmod(self.step, self.steps_per_epoch)
        return {"epoch": epoch, "step": step, "global_batch": self.config.train.global_batch}

    def _average_buffers(self) -> None:
        """Running statistics of all ranks; synchronised ones are the same already."""
        if self.config.train.batch_norm != "sync":
            distributed.average_buffers([self.network, *([self.ema.model] if self.ema else [])], self.group)

    # ---- what is said and written ----------------------------------------------------------------------------------

    def _require_finite(self, loss: float) -> None:
        if not math.isfinite(loss):
            raise UserError(
                f"the loss or a weight is not finite at step {self.step}: lower --train.lr or lengthen "
                f"--train.warmup-epochs, and give a new --out"
            )

    def _warn(self, text: str) -> None:
        self.display.say(f"warning: {text}")

    def _write(self, kind: str, figures: dict) -> None:
        if self.log is not None:
            self.log.write({"kind": kind, "epoch": self.epoch, "step": self.step, **figures})

    def _require_written(self, summary: OSError | None) -> None:
        """Raise UserError, naming it, if the disk has not taken everything. First rank."""
        missing = [] if summary is None else [f"summary.json ({summary.strerror or summary})"]
        missing += [rows for rows in [self.log and self.log.missing()] if rows]
        if missing:
            raise UserError(
                f"{self.folder.path} has everything up to step {self.step} but {' and '.join(missing)}: free some "
                "space and run the same command again"
            )

    def _leave(self) -> None:
        """The end of a run that was asked to stop."""
        self.saver.finish()
        self._require_written(None)
        self.display.say(f"stopped by a signal after step {self.step}, saved: the same command goes on from there")

    def _summarise(self) -> dict:
        """Write and return summary.json, without scores; only a finished run that is started again keeps its own."""
        summary = summarise(self)
        finished_before = self.resumed_at == self.total_steps and self.folder.read_summary() is not None
        error = None
        if self.accelerator.is_main_process and not finished_before:
            try:
                self.folder.write_summary(summary)
            except OSError as refusal:
                error = refusal
        self._require_written(error)
        self.display.say(f"trained in {format_seconds(self.clock.seconds)}: {self.folder.path}")
        self.display.say(f"score it with: fastvarcon eval linear {self.folder.path}")
        return summary
