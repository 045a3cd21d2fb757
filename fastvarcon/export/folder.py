"""Write the encoder of a run as a folder that another library loads, and prove that it does before it gets its name.

Every folder holds `model.safetensors`, which `fastvarcon.load_encoder` reads, and the model card `README.md`. Beside
them: `config.json` for timm and for the hub, `encoder.onnx` for ONNX, `config.run.json` and `scores/` for the hub.
"""

from __future__ import annotations

import dataclasses
import math
import os
import secrets
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torchvision
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from fastvarcon.config import TIMM, Config
from fastvarcon.errors import UserError
from fastvarcon.export.card import model_card
from fastvarcon.json_file import write_json
from fastvarcon.models.encoders import Encoder, load_encoder
from fastvarcon.models.exported import EXPORT_FILE, EncoderSpec, find_encoder
from fastvarcon.reporting.scored import Scored, read_scored
from fastvarcon.whole_file import may_write, write_text

ONNX_FILE = "encoder.onnx"


def export_run(run: Path, target: str, out: Path, command: str) -> list[str]:
    """Write the encoder of the run folder `run` to the new folder `out`.

    Args:
        target: one of TARGETS.
        command: what the user typed, for the card.

    Returns:
        A line for each file of the run that was left out, as it is damaged.

    Raises:
        UserError: no such encoder, a network that the target does not have, a missing package, or `out` in use.
        NotWritten: the system refused to write.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"--out {out} exists: remove it or give another folder")
    source = Source(run, Config.load(run / "config.json"), find_encoder(run)[0], load_encoder(run), read_scored(run))
    aside = out.with_name(f"{out.name}.{os.getpid()}-{secrets.token_hex(4)}.partial")
    try:
        with may_write(out, "give another folder with --out"):
            aside.mkdir(parents=True)
            _save(source, aside)
            TARGETS[target](source, aside)
            dim = source.encoder.feature_dim
            card = model_card(source.scored, source.config, source.spec, dim, target, out.name, command)
            write_text(aside / "README.md", card)
            if out.exists():
                out.rmdir()
            aside.rename(out)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return list(source.scored.problems)


@dataclass(frozen=True)
class Source:
    """What is exported."""

    run: Path
    config: Config
    spec: EncoderSpec
    encoder: Encoder
    scored: Scored


def _save(source: Source, out: Path) -> None:
    weights = {name: tensor.contiguous() for name, tensor in source.encoder.state_dict().items()}
    try:
        save_file(weights, out / EXPORT_FILE, source.spec.header())
    except SafetensorError as error:  # a full disk, say
        raise OSError(str(error)) from None
    (out / EXPORT_FILE).chmod(0o644)  # safetensors makes files that only their owner can read


def _safetensors(source: Source, out: Path) -> None:
    _same_features(source.encoder, load_encoder(out), source.spec)


def _torchvision(source: Source, out: Path) -> None:
    _require_stock(source.spec, "torchvision")
    stock = getattr(torchvision.models, source.spec.encoder)(weights=None)
    stock.fc = nn.Identity()
    stock.load_state_dict(load_file(out / EXPORT_FILE), strict=True)
    _same_features(source.encoder, stock.eval(), source.spec)


def _timm(source: Source, out: Path) -> None:
    _require_stock(source.spec, "timm")
    try:
        import timm
    except ImportError:
        raise UserError("--to timm proves the export with timm: pip install 'fastvarcon[timm]'") from None
    write_json(out / "config.json", timm_config(source.spec, source.encoder))
    _same_features(source.encoder, timm.create_model(f"local-dir:{out.resolve()}", pretrained=True).eval(), source.spec)


def _onnx(source: Source, out: Path) -> None:
    try:
        import onnxruntime
        import onnxscript  # noqa: F401 (torch's exporter needs it)
    except ImportError as error:
        raise UserError(f"--to onnx lacks the package {error.name}: pip install 'fastvarcon[onnx]'") from None
    file = out / ONNX_FILE
    torch.onnx.export(
        source.encoder,
        (_images(source.spec),),
        file,
        input_names=["images"],
        output_names=["features"],
        dynamic_shapes=({0: torch.export.Dim("batch")},),
        external_data=False,
        verbose=False,
    )
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    _same_features(source.encoder, lambda x: torch.from_numpy(session.run(None, {"images": x.numpy()})[0]), source.spec)


def _hub_folder(source: Source, out: Path) -> None:
    # a stock network is a timm model of the hub as well
    own = timm_config(source.spec, source.encoder) if source.spec.is_stock else dataclasses.asdict(source.spec)
    write_json(out / "config.json", own)
    source.config.save(out / "config.run.json")
    for stem, score in source.scored.scores.items():
        write_json(out / "scores" / f"{stem}.json", score)
    _same_features(source.encoder, load_encoder(out), source.spec)


TARGETS: dict[str, Callable[[Source, Path], None]] = {
    "torchvision": _torchvision,
    "timm": _timm,
    "onnx": _onnx,
    "safetensors": _safetensors,
    "hub-folder": _hub_folder,
}


def timm_config(spec: EncoderSpec, encoder: Encoder) -> dict:
    """What timm reads from `config.json`: the network, and how images are prepared for it."""
    prepared = {
        "input_size": [3, spec.size, spec.size],
        "interpolation": spec.interpolation,
        "crop_pct": math.nextafter(spec.size / spec.eval_resize, 0),  # timm divides and rounds down
        "crop_mode": "center",
        "mean": list(spec.mean),
        "std": list(spec.std),
        "num_classes": 0,
    }
    if spec.is_timm:
        stock: Any = encoder.pretrained_cfg  # of the architecture
        layers = {name: stock.get(name) for name in ("fixed_input_size", "pool_size", "first_conv", "classifier")}
    else:
        layers = {"fixed_input_size": False, "pool_size": [-(-spec.size // 32)] * 2}
        layers |= {"first_conv": "conv1", "classifier": "fc"}
    return {
        "architecture": spec.encoder.removeprefix(TIMM),
        "num_classes": 0,
        "num_features": encoder.feature_dim,
        "model_args": {"img_size": spec.size} if layers["fixed_input_size"] else {},
        "pretrained_cfg": {**prepared, **layers},
    }


def _require_stock(spec: EncoderSpec, library: str) -> None:
    if spec.is_timm and library == "torchvision":
        raise UserError(f"torchvision has no {spec.encoder}: export --to timm, onnx, safetensors or hub-folder")
    if not spec.is_stock:
        what = [f"width {spec.width:g}"] * (spec.width != 1.0) + ["the small-image stem"] * spec.small_images
        raise UserError(
            f"{library} has no {spec.encoder} with {' and '.join(what)}: export --to onnx, safetensors or hub-folder "
            f"(for {library}: train with --model.width 1 --model.no-small-images)"
        )


def _images(spec: EncoderSpec) -> Tensor:
    return torch.randn(3, 3, spec.size, spec.size, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def _same_features(encoder: Encoder, loaded: Callable[[Tensor], Tensor], spec: EncoderSpec) -> None:
    """Raise RuntimeError unless both give the same features of random images, up to another order of summing."""
    images = _images(spec)
    torch.testing.assert_close(
        loaded(images), encoder(images), rtol=1e-3, atol=1e-4, msg=lambda m: f"the export gives other features: {m}"
    )
