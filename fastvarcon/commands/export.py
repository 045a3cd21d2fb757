"""`fastvarcon export`."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from fastvarcon.terminal import say, warn


def export(
    run: Annotated[Positional[Path], arg(metavar="RUN", help="Run folder of a training.")],
    to: Annotated[
        Literal["torchvision", "timm", "onnx", "safetensors", "hub-folder"],
        arg(
            help="torchvision, timm: weights that the stock network of the same name loads. onnx: encoder.onnx. "
            "safetensors: only the weights. hub-folder: weights, settings and scores, as a model hub shows them. "
            "torchvision and timm need --model.width 1 and the standard stem; torchvision lacks timm's networks."
        ),
    ],
    out: Annotated[Path | None, arg(help="Folder to write, new or empty; default: RUN/export/TO.")] = None,
) -> None:
    """Write the encoder of a run for other programs, with a model card. `fastvarcon.load_encoder` reads it too."""
    from fastvarcon.export.folder import export_run

    out = out or run / "export" / to
    problems = export_run(run, to, out, shlex.join(["fastvarcon", *sys.argv[1:]]))
    warn(*(f"left out: {problem}" for problem in problems))
    for path in sorted(path for path in out.rglob("*") if path.is_file()):
        say(f"{path}  {path.stat().st_size / 1e6:,.1f} MB")
