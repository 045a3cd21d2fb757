"""`fastvarcon completion`: a shell completes what a user begins to type."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import get_args

import pytest

from fastvarcon.cli import COMMANDS
from fastvarcon.commands.completion import completion_script
from fastvarcon.config import BackendName
from fastvarcon.evaluation.options import EVALUATIONS

COMPLETE = """
source ./script
for line; do
  read -ra COMP_WORDS <<< "$line"
  [[ $line != *' ' ]] || COMP_WORDS+=("")
  COMP_CWORD=$((${#COMP_WORDS[@]} - 1)); COMPREPLY=()
  "$(complete -p fastvarcon | sed 's/.* -F \\([^ ]*\\) .*/\\1/')"
  echo "${COMPREPLY[*]}"
done
"""


@pytest.fixture(scope="module")
def bash(tmp_path_factory):
    """What bash proposes for each of the begun lines."""
    folder = tmp_path_factory.mktemp("bash")
    (folder / "script").write_text(completion_script("bash"))

    def propose(*lines: str) -> list[set[str]]:
        done = subprocess.run(["bash", "-c", COMPLETE, "bash", *lines], cwd=folder, capture_output=True, text=True)
        assert done.returncode == 0 and not done.stderr, done.stderr
        return [set(line.split()) for line in done.stdout.splitlines()]

    propose.folder = folder
    return propose


def test_bash_completes_commands_evaluations_flags_and_choices(bash):
    commands, evaluations, one, flags, choices, sides, words = bash(
        "fastvarcon ",
        "fastvarcon eval ",
        "fastvarcon eval cal",
        "fastvarcon convert --max",
        "fastvarcon bench step --data.backend ",
        "fastvarcon eval linear run --data.si",
        "fastvarcon bench step ",
    )
    assert commands == {*COMMANDS, "-h", "--help"}
    assert {*EVALUATIONS, "compare"} <= evaluations
    assert one == {"calibration"} and flags == {"--max-resolution"} and sides == {"--data.size"}
    assert all(word.startswith("-") for word in words)  # and nothing of their descriptions
    assert choices == set(get_args(BackendName))


def test_bash_proposes_files_where_no_word_fits(bash):
    assert bash("fastvarcon inspect scr", "fastvarcon report ./s") == [set(), set()]
    said = subprocess.run(["bash", "-c", "source ./script; complete -p fastvarcon"], cwd=bash.folder, stdout=-1)
    assert b"-o default" in said.stdout  # then readline looks for files


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_tab_starts_nothing_of_ours(shell):
    imported = re.findall(r"^(?:import|from) (\w+)", completion_script(shell), re.MULTILINE)
    assert set(imported) == {"sys", "typing"}


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_scripts_of_other_shells_are_valid(shell, tmp_path: Path):
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    script = tmp_path / "script"
    script.write_text(completion_script(shell))
    done = subprocess.run([shell, "-n", script], capture_output=True, text=True)
    assert done.returncode == 0 and not done.stderr, done.stderr
    assert "_files\n}" in script.read_text() if shell == "zsh" else "--no-files" not in script.read_text()
