"""Encoders by name, new or trained. ResNets are torchvision's without their classifier, with an optional stem for small
images and a width; timm's networks are in timm_encoders.

At width 1 and with the standard stem a ResNet's parameters carry torchvision's names and shapes, so that a trained
encoder loads into a stock torchvision model.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import cast

import torch.nn as nn
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

from fastvarcon.config import RESNETS, TIMM
from fastvarcon.errors import UserError
from fastvarcon.models.exported import EncoderSpec, find_encoder
from fastvarcon.models.timm_encoders import build_timm
from fastvarcon.models.weights import filled, read_tensors

ENCODERS = {
    "resnet18": (BasicBlock, (2, 2, 2, 2)),
    "resnet34": (BasicBlock, (3, 4, 6, 3)),
    "resnet50": (Bottleneck, (3, 4, 6, 3)),
    "resnet101": (Bottleneck, (3, 4, 23, 3)),
}


class Encoder(nn.Module):
    """[N, 3, H, W] -> pooled features [N, feature_dim]. What `build_encoder` returns looks like this."""

    feature_dim: int


class ResNetEncoder(ResNet, Encoder):
    """[N, 3, H, W] -> pooled features [N, feature_dim].

    Args:
        width: multiplies every channel count (64, 128, 256, 512 at 1.0).
        small_images: 3x3 stride-1 stem without max-pool (the CIFAR ResNet), for images of 64 px and less.
        zero_init_residual: every block starts as the identity (its last batch-norm scale is 0).
    """

    def __init__(
        self,
        block: type[BasicBlock | Bottleneck],
        layers: Sequence[int],
        width: float = 1.0,
        small_images: bool = False,
        zero_init_residual: bool = False,
    ):
        self._width = width
        super().__init__(block, list(layers), zero_init_residual=zero_init_residual)
        stem = self._scaled(64)
        if small_images:
            self.conv1 = nn.Conv2d(3, stem, kernel_size=3, stride=1, padding=1, bias=False)
            self.maxpool = nn.Identity()
        elif width != 1.0:
            self.conv1 = nn.Conv2d(3, stem, kernel_size=7, stride=2, padding=3, bias=False)
        if width != 1.0:
            self.bn1 = nn.BatchNorm2d(stem)
        nn.init.kaiming_normal_(self.conv1.weight, mode="fan_out", nonlinearity="relu")
        self.feature_dim: int = self.inplanes
        self.fc = nn.Identity()

    def _scaled(self, channels: int) -> int:
        return max(1, round(channels * self._width))

    def _make_layer(
        self, block: type[BasicBlock | Bottleneck], planes: int, blocks: int, stride: int = 1, dilate: bool = False
    ) -> nn.Sequential:
        if planes == 64:  # the first stage: torchvision has just set the stem's width to 64
            self.inplanes = self._scaled(64)
        return super()._make_layer(block, self._scaled(planes), blocks, stride, dilate)


def build_encoder(
    name: str,
    *,
    width: float = 1.0,
    small_images: bool = False,
    zero_init_residual: bool = False,
    size: int = 224,
    sizes: Iterable[int] = (),
    drop_path: float = 0.0,
) -> Encoder:
    """A randomly initialised encoder. `width` to `zero_init_residual` shape a ResNet, the others one of timm's.

    Args:
        name: one of RESNETS, or timm/NAME.
        size: side of the images in pixels. ResNets take any.
        sizes: other sides that it has to take as well.
        drop_path: see ModelConfig.

    Raises:
        UserError: an unknown name, or a network of timm's that cannot be built like this.
    """
    if name.startswith(TIMM):
        network, dim = build_timm(name, size=size, sizes=sizes, drop_path=drop_path)
        encoder = cast(Encoder, network)
        encoder.feature_dim = dim
        return encoder
    if name not in ENCODERS:
        raise UserError(f"unknown encoder {name!r}: choose from {', '.join(RESNETS)}, or timm/NAME")
    block, layers = ENCODERS[name]
    return ResNetEncoder(block, layers, width=width, small_images=small_images, zero_init_residual=zero_init_residual)


def build_spec(spec: EncoderSpec) -> Encoder:
    """The encoder that `spec` describes, randomly initialised."""
    return build_encoder(spec.encoder, width=spec.width, small_images=spec.small_images, size=spec.size)


def load_encoder(path: Path | str) -> Encoder:
    """The trained encoder of a run folder or of what `fastvarcon export` wrote, on the CPU, in eval mode.

    Raises:
        UserError: neither of them, or a run folder without a saved encoder.
    """
    return identify_encoder(Path(path))[0]


def identify_encoder(path: Path) -> tuple[Encoder, str]:
    """The trained encoder and the SHA-256 of its file, read once: a training may replace the file at any time."""
    spec, weights = find_encoder(path)
    state, digest = read_tensors(weights)
    try:
        encoder = filled(lambda: build_spec(spec), state)
    except ValueError as error:
        reason = f"it {error}" if not isinstance(error, UserError) else error
        raise UserError(
            f"{weights} does not hold the {spec.encoder} that is written beside or in it ({reason}): "
            "train or export it again"
        ) from None
    return cast(Encoder, encoder.eval()), digest
