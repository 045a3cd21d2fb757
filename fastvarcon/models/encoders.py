"""ResNet encoders: torchvision's networks without their classifier, with an optional stem for small images and a width.

At width 1 and with the standard stem the parameters carry torchvision's names and shapes, so that a trained encoder
loads into a stock torchvision model.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch.nn as nn
from safetensors.torch import load
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

from fastvarcon.errors import UserError
from fastvarcon.models.exported import find_encoder

ENCODERS = {
    "resnet18": (BasicBlock, (2, 2, 2, 2)),
    "resnet34": (BasicBlock, (3, 4, 6, 3)),
    "resnet50": (Bottleneck, (3, 4, 6, 3)),
    "resnet101": (Bottleneck, (3, 4, 23, 3)),
}


class ResNetEncoder(ResNet):
    """[N, 3, H, W] -> pooled features [N, feature_dim].

    Args:
        width: multiplies every channel count (64, 128, 256, 512 at 1.0).
        small_images: 3x3 stride-1 stem without max-pool (the CIFAR ResNet), for images of 64 px and less.
        zero_init_residual: every block starts as the identity (its last batch-norm scale is 0).
    """

    def __init__(self, block, layers, width: float = 1.0, small_images: bool = False, zero_init_residual: bool = False):
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

    def _make_layer(self, block, planes, blocks, stride=1, dilate=False):
        if planes == 64:  # the first stage: torchvision has just set the stem's width to 64
            self.inplanes = self._scaled(64)
        return super()._make_layer(block, self._scaled(planes), blocks, stride, dilate)


def build_encoder(
    name: str, *, width: float = 1.0, small_images: bool = False, zero_init_residual: bool = False
) -> ResNetEncoder:
    """A randomly initialised encoder. Raises UserError for an unknown name."""
    if name not in ENCODERS:
        raise UserError(f"unknown encoder {name!r}: choose from {', '.join(ENCODERS)}")
    block, layers = ENCODERS[name]
    return ResNetEncoder(block, layers, width=width, small_images=small_images, zero_init_residual=zero_init_residual)


def load_encoder(path: Path | str) -> ResNetEncoder:
    """The trained encoder of a run folder or of what `fastvarcon export` wrote, on the CPU, in eval mode.

    Raises:
        UserError: neither of them, or a run folder without a saved encoder.
    """
    return identify_encoder(Path(path))[0]


def identify_encoder(path: Path) -> tuple[ResNetEncoder, str]:
    """The trained encoder and the SHA-256 of its file, read once: a training may replace the file at any time."""
    spec, weights = find_encoder(path)
    encoder = build_encoder(spec.encoder, width=spec.width, small_images=spec.small_images)
    content = weights.read_bytes()
    try:
        encoder.load_state_dict(load(content))
    except Exception as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"{weights} does not hold the {spec.encoder} that is written beside or in it ({reason}): "
            "train or export it again"
        ) from None
    return encoder.eval(), hashlib.sha256(content).hexdigest()
