"""The small form of a study: scikit-learn's digits, a narrow network and few epochs, for a CPU."""

from __future__ import annotations

import dataclasses
import os
import sys
import tempfile
from pathlib import Path

from fastvarcon.config import Config, DataConfig

SEEDS = 2
EPOCHS = 2
DIGITS = Path("runs/digits-train.beton"), Path("runs/digits-val.beton")


def recipe() -> Path:
    """recipes/digits.py, beside the folder of the study that runs."""
    return Path(os.path.relpath(os.path.abspath(sys.argv[0]))).parents[1] / "digits.py"


def settings(defaults: Config) -> Config:
    """The recipe of the digits with a sixteenth of its arithmetic an epoch."""
    return dataclasses.replace(
        defaults,
        data=dataclasses.replace(defaults.data, train=DIGITS[0], val=DIGITS[1], size=8, eval_resize=8),
        model=dataclasses.replace(defaults.model, width=0.125),
        train=dataclasses.replace(
            defaults.train, epochs=EPOCHS, warmup_epochs=0.5, global_batch=128, val_every=0, batch_norm="local"
        ),
    )


def make_data(data: DataConfig) -> None:
    """Convert the digits, where they are not there yet and no other files are asked for."""
    if (data.train, data.val) != DIGITS or all(path.exists() for path in DIGITS):
        return
    from fastvarcon.data_prep.convert import convert
    from fastvarcon.data_prep.digits import write_digits
    from fastvarcon.data_prep.encode import EncodeSettings
    from fastvarcon.data_prep.sources import open_source

    with tempfile.TemporaryDirectory() as images:
        write_digits(Path(images))
        for split, path in zip(("train", "val"), DIGITS, strict=True):
            path.parent.mkdir(parents=True, exist_ok=True)
            convert(open_source(Path(images) / split), path, EncodeSettings(mode="raw"), workers=1, on_error="stop")
