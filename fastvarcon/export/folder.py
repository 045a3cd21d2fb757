"""Write the encoder of a run as a folder that another library loads, and prove that it does before it gets its name.

Every folder holds `model.safetensors`, which `fastvarcon.load_encoder` reads, and the model card `README.md`. Beside
them: `config.json` for timm and for the hub, `encoder.onnx` for ONNX, `config.run.json` and `scores/` for the hub.
"""

from __future__ import annotations

import dataclasses
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torchvision
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from fastvarcon.config import TIMM, Config
from fastvarcon.errors import UserError
from fastvarcon.export.card import model_card
from fastvarcon.models.encoders import Encoder, load_encoder
from fastvarcon.models.exported import EXPORT_FILE, EncoderSpec, find_encoder
from fastvarcon.run_folder import write_json

ONNX_FILE = "encoder.onnx"


def export_run(run: Path, target: str, out: Path, command: str) -> None:
    """Write the encoder of the run folder `run` to the new folder `out`.

    Args:
        target: one of TARGETS.
        command: what the user typed, for the card.

    Raises:
        UserError: no such encoder, a network that the target does not have, a missing package, or `out` in use.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"--out {out} exists: remove it or give another folder")
    spec, _ = find_encoder(run)
    encoder = load_encoder(run)
    aside = out.with_name(out.name + ".partial")
    shutil.rmtree(aside, ignore_errors=True)
    try:
        aside.mkdir(parents=True)
        weights = {name: tensor.contiguous() for name, tensor in encoder.state_dict().items()}
        save_file(weights, aside / EXPORT_FILE, spec.header())
        (aside / EXPORT_FILE).chmod(0o644)  # safetensors makes files that only their owner can read
        TARGETS[target](run, spec, encoder, aside)
        (aside / "README.md").write_text(model_card(run, spec, encoder.feature_dim, target, out.name, command), "utf-8")
        if out.exists():
            out.rmdir()
        aside.rename(out)
    except OSError as error:
        raise UserError(f"--out {out} cannot be written ({error.strerror or error}): give another folder") from None
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _safetensors(run: Path, spec: EncoderSpec, encoder: Encoder, out: Path) -> None:
    _same_features(encoder, load_encoder(out), spec)


def _torchvision(run: Path, spec: EncoderSpec, encoder: Encoder, out: Path) -> None:
    _require_stock(spec, "torchvision")
    stock = getattr(torchvision.models, spec.encoder)(weights=None)
    stock.fc = nn.Identity()
    stock.load_state_dict(load_file(out / EXPORT_FILE), strict=True)
    _same_features(encoder, stock.eval(), spec)


def _timm(run: Path, spec: EncoderSpec, encoder: Encoder, out: Path) -> None:
    _require_stock(spec, "timm")
    try:
        import timm
    except ImportError:
        raise UserError("--to timm proves the export with timm: pip install 'fastvarcon[timm]'") from None
    write_json(out / "config.json", timm_config(spec, encoder))
    _same_features(encoder, timm.create_model(f"local-dir:{out.resolve()}", pretrained=True).eval(), spec)


def _onnx(run: Path, spec: EncoderSpec, encoder: Encoder, out: Path) -> None:
    try:
        import onnxruntime
        import onnxscript  # noqa: F401 (torch's exporter needs it)
    except ImportError as error:
        raise UserError(f"--to onnx lacks the package {error.name}: pip install 'fastvarcon[onnx]'") from None
    file = out / ONNX_FILE
    torch.onnx.export(
        encoder,
        (_images(spec),),
        file,
        input_names=["images"],
        output_names=["features"],
        dynamic_shapes=({0: torch.export.Dim("batch")},),
        external_data=False,
        verbose=False,
    )
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    _same_features(encoder, lambda x: torch.from_numpy(session.run(None, {"images": x.numpy()})[0]), spec)


def _hub_folder(run: Path, spec: EncoderSpec, encoder: Encoder, out: Path) -> None:
    # a stock network is a timm model of the hub as well
    own = timm_config(spec, encoder) if spec.is_stock else dataclasses.asdict(spec)
    write_json(out / "config.json", own)
    Config.load(run / "config.json").save(out / "config.run.json")
    if (run / "eval").is_dir():
        shutil.copytree(run / "eval", out / "scores", ignore=lambda _, names: {n for n in names if n[-5:] != ".json"})
    _same_features(encoder, load_encoder(out), spec)


TARGETS: dict[str, Callable[[Path, EncoderSpec, Encoder, Path], None]] = {
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
