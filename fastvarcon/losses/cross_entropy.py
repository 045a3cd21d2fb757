"""Cross-entropy, the baseline: a linear classifier on the encoder's features instead of a projection head.

    L = mean_a -sum_c t_c log softmax(logits_a)_c           t = (1 - s) onehot(y) + s / C,  s: label smoothing

The classifier is the model's head (`models/heads.py: classifier`), so it is trained, stored and synchronised as any
other layer. Cost: O(rows x D x C), one all-reduce of two numbers.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributed import ProcessGroup

from fastvarcon.losses.base import Loss, class_numbers
from fastvarcon.losses.pairs import global_mean


class CrossEntropyLoss(Loss):
    """`forward(logits, labels)`: [n, C] of this process, [n] int64; negative labels are left out.

    Raises:
        ValueError: label smoothing outside [0, 1), labels that are not integers or, on a CPU, outside the C classes.
        UserError: no row of the batch has a label (on a CPU; on a GPU the loss is 0).
    """

    needs_labels = True

    def __init__(self, *, label_smoothing: float = 0.0, group: ProcessGroup | None = None):
        super().__init__()
        if not 0 <= label_smoothing < 1:
            raise ValueError(f"cross_entropy: label smoothing must lie in [0, 1), got {label_smoothing}")
        self.label_smoothing, self.group = label_smoothing, group

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        return self.with_stats(logits, labels)[0]

    def with_stats(self, logits: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss, and per row 1 where the classifier is right: {"batch_top1": [n]}."""
        labels = class_numbers(labels, len(logits), logits.shape[1])
        logits = logits if logits.dtype == torch.float64 else logits.float()
        known = labels >= 0
        target = labels.clamp(min=0)
        rows = F.cross_entropy(logits, target, reduction="none", label_smoothing=self.label_smoothing)
        unlabelled = "cross_entropy: no row of the batch has a label: use labelled images"
        loss = global_mean(rows, known, self.group, unlabelled)
        return loss, {"batch_top1": ((logits.argmax(1) == labels) & known).to(logits.dtype)}
