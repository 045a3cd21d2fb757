"""The embeddings, labels and values that every implementation of the contrastive family is compared with."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F


@pytest.fixture(scope="session")
def golden() -> dict:
    """{tau as text: {loss: value}, ...}: values of float64 loops and of the authors' code."""
    return json.loads(Path(__file__).parents[1].joinpath("golden_contrastive.json").read_text())["losses"]


@pytest.fixture
def golden_rows() -> tuple[torch.Tensor, torch.Tensor]:
    """[8, 3] float64 unit rows, two views of four images, and their labels."""
    raw = [
        [math.sin(1.0 + 1.7 * (4 * v + i) + 0.9 * k + 0.3 * k * k) for k in range(3)]
        for v in range(2)
        for i in range(4)
    ]
    return F.normalize(torch.tensor(raw, dtype=torch.float64), dim=1), torch.tensor([0, 1, 0, 2] * 2)
