"""The README's commands exist: every program, recipe, flag and file that it names."""

import re
import shlex
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"(?:^    .*\n)+", README, re.M)
COMMANDS = [
    command.split("#")[0].strip()
    for block in BLOCKS
    for line in block.replace("\\\n", " ").splitlines()
    for command in line.split("&&")
    if command.strip().startswith(("make", "fastvarcon ", "accelerate", "torchrun"))
]


def test_commands_are_found():
    assert len(COMMANDS) >= 12 and any("imagenet_r50" in command for command in COMMANDS)


@pytest.mark.parametrize("command", sorted({c for c in COMMANDS if c.startswith("make")}))
def test_make_targets_exist(command):
    assert re.search(rf"^{command.split()[1]}:", (ROOT / "Makefile").read_text(), re.M)


@pytest.mark.parametrize("command", sorted({c for c in COMMANDS if not c.startswith("make")}))
def test_flags_are_known_to_the_program(run_python, command):
    words = shlex.split(command)
    recipe = next((word for word in words if word.startswith("recipes/")), None)
    if recipe is None:
        depth = 3 if words[1] in ("bench", "eval") else 2
        program, own = ("-m", "fastvarcon.cli", *words[1:depth]), words[depth:]
    else:
        program, own = (recipe,), words[words.index(recipe) + 1 :]
    help_text = run_python(*program, "--help", COLUMNS="200").stdout
    assert help_text
    for flag in (word for word in own if word.startswith("--")):
        assert flag in help_text, flag


def test_named_files_exist():
    for name in re.findall(r"`((?:recipes|tests|benchmarks)/[\w./-]+)`", README):
        assert (ROOT / name).exists(), name
