"""`accelerate launch`, whose program alone is a process of its own."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def accelerate_launch(capfd):
    """`accelerate_launch(*args)`: what the program that it starts prints."""
    from accelerate.commands import launch

    def run(*args: str | Path | int) -> str:
        capfd.readouterr()
        launch.launch_command(launch.launch_command_parser().parse_args(list(map(str, args))))
        return capfd.readouterr().out

    return run
