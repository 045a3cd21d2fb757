"""Encoders, projection heads and the module that joins them."""

from __future__ import annotations

import torch.nn as nn
from torch import Tensor

from fastvarcon.config import ModelConfig
from fastvarcon.models.encoders import build_encoder
from fastvarcon.models.heads import build_head


class ContrastiveModel(nn.Module):
    """Encoder and projection head: views [N, 3, H, W] -> unit rows z [N, head_dim] in float32."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.encoder = build_encoder(
            config.encoder,
            width=config.width,
            small_images=config.small_images,
            zero_init_residual=config.zero_init_residual,
        )
        self.head = build_head(config.head, self.encoder.feature_dim, hidden=config.head_hidden, dim=config.head_dim)

    def forward(self, views: Tensor) -> Tensor:
        return self.head(self.encoder(views))
