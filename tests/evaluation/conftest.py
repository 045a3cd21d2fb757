"""An encoder on disk, jobs on small images, and commands whose complaints are one line."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from fastvarcon.models.encoders import build_encoder


@pytest.fixture(scope="session")
def encoder_file(tmp_path_factory) -> Path:
    """An exported encoder: random weights, 32 features."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("encoder") / "tiny.safetensors"
    save_file(build_encoder("resnet18", width=1 / 16, small_images=True).state_dict(), path)
    return path


@pytest.fixture
def fastvarcon(fastvarcon):
    """Run a command; returns its output, or, for exit code 2, its one line of complaint."""

    def run(*args, code: int = 0) -> str:
        said = fastvarcon(*args, code=code)
        assert not code or (said.startswith("error: ") and said.count("\n") == 1), said
        return said

    return run
