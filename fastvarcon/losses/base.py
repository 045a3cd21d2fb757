"""What every objective is."""

from __future__ import annotations

import torch
from torch import Tensor


class Loss(torch.nn.Module):
    """An objective of the global batch: a module with `forward(z, labels)` and `with_stats(z, labels)`.

    Its `needs_labels` says whether a row without a label is refused.
    """

    def with_stats(self, z: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of rows z [n, D] of this process with labels [n] int64, and per-row figures [n] by name."""
        raise NotImplementedError
