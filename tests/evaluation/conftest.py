"""An encoder on disk, jobs on small images, and `fastvarcon` called in this process: a new one would import torch."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from fastvarcon import cli
from fastvarcon.models.encoders import build_encoder


@pytest.fixture(scope="session")
def encoder_file(tmp_path_factory) -> Path:
    """An exported encoder: random weights, 32 features."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("encoder") / "tiny.safetensors"
    save_file(build_encoder("resnet18", width=1 / 16, small_images=True).state_dict(), path)
    return path


@pytest.fixture
def fastvarcon(monkeypatch, capsys):
    """Run a command; returns its output, or, for exit code 2, its one line of complaint."""

    def run(*args, code: int = 0) -> str:
        monkeypatch.setattr(sys, "argv", ["fastvarcon", *map(str, args)])
        capsys.readouterr()
        if code:
            with pytest.raises(SystemExit) as exit:
                cli.main()
            assert exit.value.code == code
            said = capsys.readouterr().err
            assert said.startswith("error: ") and said.count("\n") == 1, said
            return said
        cli.main()
        return capsys.readouterr().out

    return run
