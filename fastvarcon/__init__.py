"""fastvarcon: train image encoders with supervised contrastive losses, and tell the truth about how good they are.

Names are loaded on first use, so that `fastvarcon --help` and the conversion workers do not pay for importing torch.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_HOME = {
    "Config": "fastvarcon.config",
    "ImageBatch": "fastvarcon.data.batch",
    "Loader": "fastvarcon.data.loader",
    "UserError": "fastvarcon.errors",
    "VarConLoss": "fastvarcon.losses.varcon",
    "build_encoder": "fastvarcon.models.encoders",
    "build_head": "fastvarcon.models.heads",
    "load_encoder": "fastvarcon.models.encoders",
    "open_backend": "fastvarcon.data.backends",
    "train": "fastvarcon.training.trainer",
    "varcon_loss": "fastvarcon.losses.varcon",
    "varcon_stats": "fastvarcon.losses.varcon",
}
__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'fastvarcon' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
