"""Run by test_survival.py: small trainings in forked processes that are killed, stopped and moved.

Importing torch and loading the view kernel takes seconds, so it is done once, here; every training is a fork of this
process, which has no threads. Prints one JSON object with what was seen.
"""

import json
import os
import random
import re
import signal
import socket
import sys
import threading
import time
import traceback
from contextlib import redirect_stdout
from pathlib import Path

import torch
from safetensors.torch import load_file

from fastvarcon.config import Config, DataConfig, ModelConfig, TrainConfig
from fastvarcon.data.backends import open_backend
from fastvarcon.data.loader import Loader, ViewSpec
from fastvarcon.losses import VarConLoss
from fastvarcon.run_folder import RunFolder, read_metrics, run_identity
from fastvarcon.training import network, trainer
from fastvarcon.training.checkpoint import load_checkpoint

KILLS = 20
data, out = Path(sys.argv[1]), Path(sys.argv[2])
rng = random.Random(0)


class Remembering(VarConLoss):
    """VarCon with a buffer that every step moves and that every loss depends on, as prototypes do."""

    def __init__(self, num_classes: int, group):
        super().__init__(num_classes, group=group)
        self.register_buffer("mean", torch.zeros(128))

    def with_stats(self, z, labels):
        loss, stats = super().with_stats(z, labels)
        loss = loss + 0.1 * (z @ self.mean.clone()).mean()
        self.mean.lerp_(z.detach().mean(0), 0.1)
        return loss, stats


def config(name: str) -> Config:
    return Config(
        data=DataConfig(train=data, policy="crop", size=8, eval_resize=8, workers=1),
        model=ModelConfig("resnet18", width=0.0625, small_images=True),
        train=TrainConfig(
            **{"global_batch": 128, "epochs": 8, "lr": 0.05, "warmup_epochs": 1.0, "device": "cpu", "threads": 1},
            **{"log_every": 1, "save_steps": 1, "save_minutes": 0.0, "ema": 0.9, "batch_norm": "ghost", "bn_group": 32},
            **{"resolution": "6:0.5,8:0.5"},
        ),
        out=out / name,
    )


def signal_self(run: trainer.Run, at: int, number: int) -> None:
    """Send ourselves a signal at a random moment of the two steps that follow the one with the number `at`."""
    update, began = run.update, [time.monotonic()]

    def timed(*batch):
        rate = update(*batch)
        seconds, began[0] = time.monotonic() - began[0], time.monotonic()
        if run.step == at:
            delay = 0 if number != signal.SIGKILL else rng.random() * 2 * seconds
            threading.Timer(delay, os.kill, (os.getpid(), number)).start()
        return rate

    run.update = timed


def child(config: Config, prepare, rank: int, environ: dict[str, str]) -> int:
    """Fork a process that trains; its output goes to out/NAME.RANK.log, its exit code is 0, or 1 for an error."""
    pid = os.fork()
    if pid:
        return pid
    try:
        os.environ.update(environ)
        fit = trainer.Run.fit

        def prepared_fit(run):
            prepare(run, rank)
            return fit(run)

        trainer.Run.fit = prepared_fit
        with open(f"{config.out}.{rank}.log", "a") as log, redirect_stdout(log):
            trainer.train(config)
            log.flush()
        os._exit(0)
    except BaseException:
        traceback.print_exc()
        os._exit(1)


def run(config: Config, prepare=lambda run, rank: None, world: int = 1) -> list[int]:
    """Train on `world` processes; their exit codes, or minus the signal that ended them."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(probe.getsockname()[1])}
    ranks = [
        {**address, "RANK": str(r), "LOCAL_RANK": str(r), "WORLD_SIZE": str(world), "LOCAL_WORLD_SIZE": str(world)}
        for r in range(world)
    ]
    children = [child(config, prepare, r, ranks[r] if world > 1 else {}) for r in range(world)]
    return [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children]


def last_step(config: Config) -> int:
    return max((row["step"] for row in read_metrics(config.out / "metrics.jsonl")), default=0)


def same(one: Config, other: Config) -> bool:
    """Weights, momentum, average, loss buffers, figures: everything but the time it took."""
    states = [load_checkpoint(RunFolder(c.out).last, run_identity(c)) for c in (one, other)]
    flat = [dict(flatten(state)) for state in states]
    encoders = [load_file(c.out / "encoder.safetensors") for c in (one, other)]
    curves = [
        [{k: v for k, v in row.items() if k not in ("views_per_second", "data_wait_fraction")} for row in rows]
        for rows in (read_metrics(c.out / "metrics.jsonl") for c in (one, other))
    ]
    tensors = flat[0].keys() == flat[1].keys() and all(torch.equal(flat[0][k], flat[1][k]) for k in flat[0])
    return tensors and all(torch.equal(encoders[0][k], encoders[1][k]) for k in encoders[0]) and curves[0] == curves[1]


def flatten(node, path=""):
    if isinstance(node, torch.Tensor):
        yield path, node
    elif isinstance(node, (dict, list)):
        for key, value in node.items() if isinstance(node, dict) else enumerate(node):
            yield from flatten(value, f"{path}/{key}")


def record_labels(run: trainer.Run, rank: int) -> None:
    update = run.update

    def recorded(views, labels):
        with open(f"{run.folder.path}.{rank}.labels", "a") as file:
            file.write(json.dumps([run.step, labels.tolist()]) + "\n")
        return update(views, labels)

    run.update = recorded


def labels_of(config: Config, rank: int) -> dict[int, list[int]]:
    return dict(map(json.loads, Path(f"{config.out}.{rank}.labels").read_text().splitlines()))


def load_kernel() -> None:
    with Loader(open_backend("cpu", data, 1), ViewSpec(8, (0.5,) * 3, (0.5,) * 3), global_batch=2) as loader:
        next(iter(loader))


torch.set_num_threads(1)
load_kernel()
network.build_loss = lambda loss, num_classes, group, **shape: Remembering(num_classes, group)
seen = {}

whole, killed, stopped = config("whole"), config("killed"), config("stopped")
assert run(whole) == [0]

seen["killed by"] = []
for _ in range(KILLS):
    at = last_step(killed) + rng.choice((1, 2))
    seen["killed by"] += run(killed, lambda run, rank, at=at: signal_self(run, at, signal.SIGKILL))
seen["steps when killed"] = last_step(killed)
assert run(killed) == [0]
log = Path(f"{killed.out}.0.log").read_text()
seen["resumed within an epoch"] = len(re.findall(r"resuming .* and \d+ steps", log))
seen["killed is whole"] = same(whole, killed)

seen["stopped with"] = []
for at, number in ((3, signal.SIGTERM), (11, signal.SIGUSR1), (25, signal.SIGTERM)):
    seen["stopped with"] += run(stopped, lambda run, rank, at=at, n=number: signal_self(run, at, n))
seen["steps when stopped"] = last_step(stopped)
assert run(stopped) == [0]
seen["resume lines"] = Path(f"{stopped.out}.0.log").read_text().count("the same command goes on from there")
seen["stopped is whole"] = same(whole, stopped)

alone, moved = config("alone"), config("moved")
for settings in (alone.train, moved.train):
    settings.epochs, settings.resolution = 2, ""
moved.train.log_every = 4
assert run(alone, record_labels) == [0]


def stop_second_rank(run: trainer.Run, rank: int) -> None:
    record_labels(run, rank)
    if rank == 1:
        signal_self(run, 5, signal.SIGTERM)


seen["two ranks stopped with"] = run(moved, stop_second_rank, world=2)
seen["two ranks stopped at"] = last_step(moved)
first, second = labels_of(moved, 0), labels_of(moved, 1)
assert run(moved, record_labels) == [0]
after = labels_of(moved, 0)
together = {**{step: first[step] + second[step] for step in first}, **{s: after[s] for s in after if s not in first}}
seen["same order on another world size"] = together == labels_of(alone, 0)
print(json.dumps(seen))
