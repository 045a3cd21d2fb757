"""Every program, recipe, flag and file that README and docs name exists, and the program says what the FAQ answers."""

import functools
import re
import shlex
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = {
    path: path.read_text(encoding="utf-8")
    for path in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md")))
}


def commands_of(text: str) -> set[str]:
    return {
        command.split("  #")[0].strip()
        for block in re.findall(r"(?:^    .*\n)+", text, re.M)
        for line in block.replace("\\\n", " ").splitlines()
        for command in line.split("&&")
        if command.strip().startswith(("make ", "fastvarcon ", "accelerate ", "torchrun ", "sbatch "))
    }


COMMANDS = sorted(set().union(*map(commands_of, PAGES.values())))


def program_of(command: str) -> tuple[tuple[str, ...], list[str]]:
    """What to run for its help, and the words that are its own."""
    words = shlex.split(command)
    recipe = next((word for word in words if re.fullmatch(r"recipes/\w+\.py", word)), None)
    if recipe is not None and words[0] != "fastvarcon":
        return (recipe,), words[words.index(recipe) + 1 :]
    depth = 3 if words[1] in ("bench", "eval") else 2
    return ("-m", "fastvarcon.cli", *words[1:depth]), words[depth:]


@pytest.fixture(scope="module")
def help_of(run_python):
    @functools.cache
    def ask(program: tuple[str, ...]) -> str:
        return run_python(*program, "--help", COLUMNS="200").stdout

    return ask


def test_commands_are_found():
    assert len(COMMANDS) >= 30 and any("imagenet_r50" in command for command in COMMANDS)


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.startswith("make")])
def test_make_targets_exist(command):
    assert re.search(rf"^{command.split()[1]}:", (ROOT / "Makefile").read_text(), re.M)


@pytest.mark.parametrize("command", [c for c in COMMANDS if not c.startswith("make")])
def test_flags_are_known_to_the_program(help_of, command):
    program, own = program_of(command)
    if "--recipe" in own:  # the settings of the recipe are flags of the command then
        program = (*program, "--recipe", own[own.index("--recipe") + 1])
    text = help_of(program)
    assert text
    for flag in (word for word in own if word.startswith("--")):
        assert flag in text, flag


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_named_files_exist(page):
    for name in re.findall(r"`((?:recipes|tests|benchmarks|docs|kernels|fastvarcon)/[\w./-]+\.\w+)`", PAGES[page]):
        assert (ROOT / name).exists(), name
    for name in re.findall(r"\]\(((?!http)[^)#]+)\)", PAGES[page]):
        assert (page.parent / name).exists(), name


def test_messages_of_the_faq_are_said_by_the_program():
    source = "".join(
        path.read_text() for folder in ("fastvarcon", "data_prep") for path in (ROOT / folder).rglob("*.py")
    )
    plain = re.sub(r'"\s*f?"', "", source)  # texts that go on in the next line
    titles = re.findall(r"^## `(.+)`$", PAGES[ROOT / "docs" / "faq.md"], re.M)
    assert len(titles) >= 5
    for title in titles:
        for part in title.split("..."):
            assert part.strip() in plain, title
