"""How many CPU threads a small product is worth."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

SMALL = 30_000_000
"""Multiplications of a product, below which one thread is at least as fast: waking the others takes as long, and much
longer on a machine that is busy."""


@contextlib.contextmanager
def threads_for(multiplications: int) -> Iterator[None]:
    """Inside, one CPU thread if products have fewer than SMALL multiplications."""
    before = torch.get_num_threads()
    if multiplications < SMALL:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
