"""What is scored: RUN on the command line -> an encoder, its identity, and the views it was made for.

runs/r50                           a run folder: config.json and encoder.safetensors
runs/r50/checkpoints/epoch-050     one of its checkpoints
encoder.safetensors, or its folder an exported ResNet: the architecture is read off the tensors
resnet50, timm/vit_tiny_patch16_224  an architecture, with --weights FILE.safetensors or --weights random
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import torch
import torch.nn as nn
from torch import Tensor

from fastvarcon.config import WIDEST, Config, DataConfig
from fastvarcon.errors import UserError
from fastvarcon.models.encoders import ENCODERS, Encoder, build_encoder, build_spec, identify_encoder
from fastvarcon.models.exported import EXPORT_FILE, HEADER, EncoderSpec, find_encoder
from fastvarcon.models.timm_encoders import create_timm
from fastvarcon.models.weights import filled, first_line, metadata_in, read_tensors
from fastvarcon.run_folder import CHECKPOINT_FILE

RANDOM_SEED = 0
"""Of the weights of `--weights random`."""
CHECKPOINT_PREFIX = "/model/encoder."
"""Where a checkpoint of the trainer keeps the encoder's tensors."""


@dataclass(frozen=True)
class Target:
    """Small and plain: it is sent to the other processes, which build the encoder themselves."""

    kind: Literal["run", "checkpoint", "export", "file", "architecture", "pixels"]
    path: Path | None = None
    """Of the run folder, checkpoint folder or weights."""
    architecture: str = ""

    @property
    def place(self) -> Path:
        """`path`, which all have but pixels and an architecture with random weights."""
        assert self.path is not None
        return self.path

    @property
    def title(self) -> str:
        """Short name, also of the default folder of its scores."""
        if self.kind == "architecture":
            return f"{self.architecture.replace('/', '-')}-{self.path.stem if self.path else 'random'}"
        if self.kind == "checkpoint":
            return f"{self.place.parent.parent.name}-{self.place.name}"
        if self.kind == "export":
            return self.place.resolve().parent.name
        if self.kind == "file":
            return self.place.stem
        return self.path.name if self.path else "pixels"

    @property
    def run_folder(self) -> Path | None:
        """The run that it is of, where that is known."""
        return {"run": self.path, "checkpoint": self.path and self.path.parent.parent}.get(self.kind)

    @property
    def settings(self) -> DataConfig | None:
        """The data settings it was trained with, where they are known."""
        if self.kind == "run":
            return Config.load(self.place / "config.json").data
        if self.kind == "checkpoint":
            return Config.load(self.place.parent.parent / "config.json").data
        if self.kind == "export":
            spec = find_encoder(self.place)[0]
            return DataConfig(
                size=spec.size,
                eval_resize=spec.eval_resize,
                mean=spec.mean,
                std=spec.std,
                interpolation=spec.interpolation,
            )
        return None

    def build(self, size: int) -> tuple[nn.Module, str]:
        """The encoder in eval mode on the CPU, [N, 3, size, size] -> [N, D], and a SHA-256 that tells its weights.

        Raises:
            UserError: weights that do not fit, or an encoder that does not take images of `size` pixels.
        """
        if self.kind == "pixels":
            return nn.Identity(), "pixels"
        encoder: nn.Module
        if self.kind in ("run", "export"):
            encoder, digest = identify_encoder(self.place)
        elif self.kind == "checkpoint":
            encoder, digest = _from_checkpoint(self.place)
        elif self.kind == "file":
            encoder, digest = _from_file(self.place)
        else:
            encoder, digest = _from_architecture(self.architecture, self.path)
        encoder.eval()
        try:
            shape = _shape_of_features(encoder, size)
        except Exception as error:
            raise UserError(
                f"{self.title} does not take images of {size} x {size} pixels ({first_line(error)}): "
                "give another --data.size"
            ) from None
        if shape[1] == 0:
            raise UserError(f"{self.title} makes no features of images of {size} x {size} pixels: give a --data.size")
        return encoder, digest


def resolve(run: str, weights: str | None) -> Target:
    """RUN and --weights -> Target. Raises UserError if it is none of the things above."""
    path = Path(run)
    if path.exists():
        if weights is not None:
            raise UserError(f"--weights belongs to a model name, and {run} is a path: leave it out")
        return _at(path)
    if run.endswith(".safetensors") or (path.parent != Path() and not run.startswith("timm/")):
        raise UserError(f"{run} does not exist: give a run folder, an exported encoder or a model name")
    if not run.startswith("timm/") and run not in torchvision_names() and run not in _timm_names():
        raise UserError(f"{run} is not a run folder, nor an exported encoder, nor a torchvision or timm model name")
    if weights is None:
        raise UserError(f"{run} is an architecture: give --weights FILE.safetensors, or --weights random")
    file = None if weights == "random" else Path(weights)
    if file is not None and file.suffix != ".safetensors":
        raise UserError(
            f'--weights {file} is not a .safetensors file. Convert it once: python -c "import torch, safetensors.torch '
            f"as s; s.save_file(torch.load('{file}', weights_only=True), '{file.with_suffix('.safetensors')}')\""
        )
    return Target("architecture", file, run)


def _at(path: Path) -> Target:
    if path.is_file():
        return Target("export" if _is_export(path) else "file", path)
    if (path / EXPORT_FILE).exists():
        return _at(path / EXPORT_FILE)
    if (path / "config.json").exists():
        return Target("run", path)
    if (path / CHECKPOINT_FILE).exists():
        return Target("checkpoint", path)
    files = sorted(path.glob("*.safetensors"))
    if len(files) != 1:
        raise UserError(f"{path} is not a run folder, and holds {len(files)} .safetensors files: give one of those")
    return Target("file", files[0])


def _is_export(path: Path) -> bool:
    return HEADER in metadata_in(path)


@torch.no_grad()
def _shape_of_features(encoder: nn.Module, size: int) -> torch.Size:
    """Of one image. Without memory or work: the network's tensors are replaced by their shapes."""
    shapes = {name: tensor.to("meta") for name, tensor in encoder.state_dict(keep_vars=True).items()}
    made = torch.func.functional_call(encoder, shapes, torch.zeros(1, 3, size, size, device="meta"))
    return made.flatten(1).shape


def torchvision_names() -> list[str]:
    import torchvision

    return torchvision.models.list_models(module=torchvision.models)


def _timm_names() -> list[str]:
    try:
        import timm
    except ImportError:
        return []
    return timm.list_models()


def _from_checkpoint(folder: Path) -> tuple[nn.Module, str]:
    spec = EncoderSpec.of_config(Config.load(folder.parent.parent / "config.json"))
    tensors, digest = read_tensors(folder / CHECKPOINT_FILE)
    state = {
        name[len(CHECKPOINT_PREFIX) :]: tensor for name, tensor in tensors.items() if name.startswith(CHECKPOINT_PREFIX)
    }
    return _filled(lambda: build_spec(spec), state, folder), digest


def _from_file(path: Path) -> tuple[nn.Module, str]:
    state, digest = read_tensors(path)
    return _filled(resnet_like(state, path), state, path), digest


def resnet_like(state: Mapping[str, Tensor], origin: Path) -> Callable[[], Encoder]:
    """Builds a ResNet of the depth, width and stem that the tensors of `state` have."""
    blocks = "Bottleneck" if "layer1.0.conv3.weight" in state else "BasicBlock"
    depth = tuple(
        len({name.split(".")[1] for name in state if name.startswith(f"layer{stage}.")}) for stage in (1, 2, 3, 4)
    )
    stem = state["conv1.weight"].shape if "conv1.weight" in state else ()
    for name, (block, layers) in ENCODERS.items():
        if (block.__name__, tuple(layers)) == (blocks, depth) and len(stem) == 4 and 0 < stem[0] <= 64 * WIDEST:
            return partial(build_encoder, name, width=stem[0] / 64, small_images=stem[3] == 3)
    raise UserError(
        f"{origin} does not hold a ResNet of fastvarcon or torchvision: give the model's name, and this as --weights"
    )


def _from_architecture(name: str, weights: Path | None) -> tuple[nn.Module, str]:
    def build() -> nn.Module:
        return _torchvision(name) if name in torchvision_names() else create_timm(name)

    if weights is None:
        torch.manual_seed(RANDOM_SEED)
        return build(), hashlib.sha256(f"random {name} {RANDOM_SEED} torch {torch.__version__}".encode()).hexdigest()
    state, digest = read_tensors(weights)
    return _filled(build, state, weights), digest


def _torchvision(name: str) -> nn.Module:
    """The network without its classifier: the last linear layer is left out."""
    import torchvision

    network = torchvision.models.get_model(name, weights=None)
    last = [path for path, module in network.named_modules() if isinstance(module, nn.Linear)]
    if not last:
        raise UserError(f"{name} ends in a convolution: it has no features before its classifier")
    parent, _, child = last[-1].rpartition(".")
    setattr(network.get_submodule(parent), child, nn.Identity())
    return network


def _filled(build: Callable[[], nn.Module], state: Mapping[str, Tensor], origin: Path) -> nn.Module:
    try:
        return filled(build, state)
    except UserError:
        raise
    except ValueError as error:
        raise UserError(f"{origin} {error}: give the weights of this very network") from None
