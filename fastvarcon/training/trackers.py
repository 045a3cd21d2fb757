"""TensorBoard, Weights & Biases and MLflow, through Accelerate's trackers: the same figures as metrics.jsonl."""

from __future__ import annotations

import functools
import importlib.util
import threading

from accelerate import Accelerator
from accelerate.tracking import GeneralTracker, filter_trackers

from fastvarcon.config import Config
from fastvarcon.errors import UserError

PROJECT = "fastvarcon"


def require_packages(config: Config) -> None:
    """Raise UserError if the package of a tracker that `config` asks for is not installed."""
    for name in config.train.tracker_names:
        if importlib.util.find_spec(name) is None:
            raise UserError(f"--train.trackers {name} needs a package that is not installed: pip install {name}")


def start_trackers(config: Config, accelerator: Accelerator) -> list[GeneralTracker]:
    """The running trackers of this process; none on other ranks than the first.

    TensorBoard writes to OUT/trackers; the others where their own settings (WANDB_*, MLFLOW_*) say.
    """
    if not config.train.tracker_names:
        return []
    folder = config.out / "trackers"
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder} cannot be written ({error.strerror}): leave out --train.trackers") from None
    _say_once()
    accelerator.project_configuration.logging_dir = str(folder)
    accelerator.log_with = filter_trackers(list(config.train.tracker_names), str(folder))
    settings = {
        key: value if isinstance(value, (int, float, str)) else str(value) for key, value in config.flat().items()
    }
    names = {"wandb": {"name": config.out.name, "dir": str(folder)}, "mlflow": {"run_name": config.out.name}}
    accelerator.init_trackers(PROJECT, settings, names)
    return accelerator.trackers


@functools.cache
def _say_once() -> None:
    """Keep the tracebacks of TensorBoard's writing thread off the log: its next caller gets the same error."""
    before = threading.excepthook

    def hook(args: threading.ExceptHookArgs) -> None:
        if not (isinstance(args.exc_value, OSError) and type(args.thread).__module__.startswith("tensorboard.")):
            before(args)

    threading.excepthook = hook


def scalars(row: dict) -> dict[str, float]:
    """The numbers of a row of metrics.jsonl, those of an epoch under `per_epoch/`.

    (Not `epoch/`: MLflow keeps metrics as files, and `epoch` is one.)
    """
    prefix = "per_epoch/" if row["kind"] == "epoch" else ""
    return {prefix + name: value for name, value in row.items() if type(value) in (int, float) and name != "step"}
