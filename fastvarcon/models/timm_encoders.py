"""Networks of the timm package as encoders: pooled features of any of its models, randomly initialised.

The parameters carry timm's names, so that a trained encoder loads into `timm.create_model(NAME, num_classes=0)`.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any

import torch
import torch.nn as nn

from fastvarcon.config import TIMM
from fastvarcon.errors import UserError


def require_timm(encoder: str) -> None:
    """Raise UserError unless timm is installed and has the model of `encoder`, which is timm/NAME."""
    try:
        import timm
    except ImportError:
        raise UserError(f"{encoder} needs the timm package: pip install 'fastvarcon[timm]'") from None
    name = encoder.removeprefix(TIMM)
    if not timm.is_model(name):
        close = difflib.get_close_matches(name, timm.list_models(), n=3) or ["vit_small_patch16_224"]
        raise UserError(f"timm has no model {name!r}: give a name such as {' or '.join(close)}")


def create_timm(encoder: str, *, size: int | None = None, any_size: bool = False, drop_path: float = 0.0) -> nn.Module:
    """The network of `encoder`, timm/NAME, without its classifier.

    Args:
        size: side of the images in pixels, for networks that are built for one size; None: timm's default.
        any_size: such a network is to take other sizes as well, by resampling its position embeddings.
        drop_path: see ModelConfig.

    Raises:
        UserError: no timm, no such model, or one that cannot be built like this.
    """
    require_timm(encoder)
    import timm

    name = encoder.removeprefix(TIMM)
    settings = timm.get_pretrained_cfg(name)
    options: dict[str, Any] = {}
    if size is not None and settings is not None and settings.fixed_input_size:
        options["img_size"] = size
        if any_size:
            options["dynamic_img_size"] = True
    try:
        try:
            network = timm.create_model(name, num_classes=0, drop_path_rate=drop_path, **options)
        except TypeError:  # not all know drop path, and some drop paths unless they are told not to
            network = timm.create_model(name, num_classes=0, **options)
    except Exception as error:
        remedy = "leave out --train.resolution" if any_size else "give another --data.size"
        raise UserError(f"{encoder} cannot be built with {options} ({_first_line(error)}): {remedy}") from None
    if drop_path and not any(getattr(module, "drop_prob", 0) for module in network.modules()):
        raise UserError(f"{encoder} has no paths to drop: leave out --model.drop-path")
    return network


def build_timm(encoder: str, *, size: int, sizes: Iterable[int] = (), drop_path: float = 0.0) -> tuple[nn.Module, int]:
    """As `create_timm`, for images of `size` and `sizes` pixels: [N, 3, s, s] -> [N, D] for each of them, and D.

    Raises:
        UserError: as there, or for a network that does not take a size, or whose features are not pooled.
    """
    others = sorted(set(sizes) - {size})
    network = create_timm(encoder, size=size, any_size=bool(others), drop_path=drop_path).eval()
    for side, flag in [(size, "--data.size"), *((other, "--train.resolution") for other in others)]:
        try:
            with torch.no_grad():
                features = network(torch.zeros(1, 3, side, side))
        except Exception as error:
            raise UserError(
                f"{encoder} does not take images of {side} x {side} pixels ({_first_line(error)}): give another {flag}"
            ) from None
        if features.ndim != 2 or features.shape[1] == 0:
            raise UserError(f"{encoder} has no pooled features of {side} x {side} pixels: choose another model")
    return network.train(), features.shape[1]


def draws_at_random(network: nn.Module) -> bool:
    """Whether a forward pass in training draws random numbers: dropout or drop path."""
    return any(
        (isinstance(module, nn.modules.dropout._DropoutNd) and module.p > 0) or getattr(module, "drop_prob", 0)
        for module in network.modules()
    )


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
