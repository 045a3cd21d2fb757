"""Encoders, projection heads and the module that joins them."""

from __future__ import annotations

from collections.abc import Iterable

import torch.nn as nn
from torch import Tensor

from fastvarcon.config import ModelConfig
from fastvarcon.models.encoders import build_encoder
from fastvarcon.models.heads import Classifier, build_head


class ContrastiveModel(nn.Module):
    """Encoder and projection head: views [N, 3, H, W] -> unit rows z [N, head_dim] in float32.

    With `classes`, a linear classifier takes the head's place: -> logits [N, classes]. `size` and `sizes`, in pixels,
    are those of the images, for encoders that are built for one size: see `build_encoder`.
    """

    def __init__(self, config: ModelConfig, classes: int | None = None, *, size: int = 224, sizes: Iterable[int] = ()):
        super().__init__()
        self.encoder = build_encoder(
            config.encoder,
            width=config.width,
            small_images=config.small_images,
            zero_init_residual=config.zero_init_residual,
            size=size,
            sizes=sizes,
            drop_path=config.drop_path,
        )
        features = self.encoder.feature_dim
        if classes is not None:
            self.head: nn.Module = Classifier(features, classes)
        else:
            self.head = build_head(
                config.head, features, hidden=config.head_hidden, dim=config.head_dim, relu=config.head_relu
            )

    def forward(self, views: Tensor) -> Tensor:
        return self.head(self.encoder(views))
