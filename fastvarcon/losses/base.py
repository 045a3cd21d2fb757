"""What every objective is, and the labels that it takes."""

from __future__ import annotations

import torch
from torch import Tensor

LABEL_TYPES = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.uint16, torch.uint32)


def class_numbers(labels: Tensor, rows: int, num_classes: int | None = None) -> Tensor:
    """`labels` [rows] of any integer type that int64 holds, as int64. Waits for no GPU.

    Args:
        num_classes: raise for labels from this number on, where they can be looked at without waiting: on a CPU.

    Raises:
        ValueError: another shape, bool, floats or uint64; or a label outside the classes.
    """
    if labels.shape != (rows,) or labels.dtype not in LABEL_TYPES:
        kind = str(labels.dtype).removeprefix("torch.")
        raise ValueError(
            f"labels must be [{rows}] integers, got {list(labels.shape)} of {kind}: give class numbers, one per row, "
            "as labels.to(torch.int64)"
        )
    labels = labels.to(torch.int64)
    if num_classes is not None and labels.device.type == "cpu" and not torch.compiler.is_compiling() and rows:
        highest = int(labels.max())
        if highest >= num_classes:
            raise ValueError(f"label {highest} is outside the {num_classes} classes")
    return labels


class Loss(torch.nn.Module):
    """An objective of the global batch: a module with `forward(z, labels)` and `with_stats(z, labels)`.

    Its `needs_labels` says whether a row without a label is refused.
    """

    def with_stats(self, z: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of rows z [n, D] of this process with labels [n] int64, and per-row figures [n] by name."""
        raise NotImplementedError
