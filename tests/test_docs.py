"""Every command of README and docs is run by a test, or says what it needs; every name in them exists.

A block of code in a page is run here as it stands, in a folder that holds the names of IMAGES, FILES and RUNS, with the
settings that cost time replaced by those of TRAINING and SMALL. A command that cannot be run everywhere says why:

    torchrun --nproc_per_node 8 recipes/imagenet_r50.py ...     # needs 8 GPUs

`# needs ...` (NEEDS) on a line of its own speaks for the rest of its block. What ELSEWHERE names is run by its test.
Of commands that are not run here, the flags are looked up in the program's --help.
"""

from __future__ import annotations

import contextlib
import functools
import io
import os
import pickle
import re
import runpy
import shlex
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parents[1]
PAGES = {
    path: path.read_text(encoding="utf-8")
    for path in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md")))
}

# ------------------------------------------------------------------------------------------------- what there is

IMAGES = (  # folders of classes; the second of each is held out
    ("images/train", "images/val"),
    ("imagenet/train", "imagenet/val"),
    ("imagenette/train", "imagenette/val"),
    ("cifar10/train", "cifar10/test"),
)
FILES = (("train.beton", "val.beton"), ("cifar10-train.beton", "cifar10-val.beton"))
RUNS = ("runs/mine", "runs/other", "runs/r50")

# ------------------------------------------------------------------------------------------------- how it is run

TRAINING = {  # in place of what a command says, or beside it
    "--train.epochs": "1",
    "--train.warmup-epochs": "0",
    "--train.global-batch": "8",
    "--train.device": "cpu",
    "--train.threads": "1",
    "--train.val-every": "0",
    "--data.size": "16",
    "--data.eval-resize": "16",
    "--data.workers": "1",
    "--model.width": "0.125",
}
ONLY_IF_GIVEN = {
    "--train.micro-batch": "4",
    "--train.bn-group": "4",
    "--train.compile": "off",
    "--train.precision": "fp32",  # accelerate keeps the first of a process
    "--sampling.per-class": "2",
}
SMALL = {
    "convert": {"--workers": "1"},
    "verify": {"--workers": "1"},
    "eval": {"--data.workers": "1"},
    "benchmarks/evaluation.py": {"--rows": "300"},
    "eval compare": {},
    "eval linear": {"--data.workers": "1", "--epochs": "2"},
}
# commands that other tests run: how they begin -> (the test, words of it that show it)
ELSEWHERE = {
    "make demo": (".ci/run", "make demo"),
    "make test-matrix": (".ci/run", "make test-matrix"),
    "make test": (".ci/run", "make test"),
    "make lint": ("Makefile", "test: lint"),
    "make tables": ("tests/benchmarks/test_tables.py", "tables.py"),
    "make docs": ("tests/test_site.py", '"mkdocs", "build", "--strict"'),
    "python3? -m venv ": ("Makefile", "-m venv .venv"),
    "pip install ": ("tests/test_packaging.py", '"pip", "install"'),
    "source .venv/bin/activate": ("Makefile", "-m venv .venv"),
    "git clone ": (".ci/run", "clean clone"),
    "cd ": (".ci/run", "cd "),
    "fastvarcon bench loader ": ("tests/bench/test_loader.py", '"bench", "loader"'),
    "fastvarcon bench kernels ": ("tests/bench/test_kernels.py", '"bench", "kernels"'),
    "fastvarcon bench step ": ("tests/bench/test_step.py", "step(config, rounds=2"),
    "fastvarcon doctor": ("tests/bench/test_doctor.py", '"doctor"'),
    "torchrun --nnodes 2 ": ("tests/test_launching.py", '"torch.distributed.run", "--nnodes", "2"'),
    "torchrun --nproc_per_node 2 ": (
        "tests/training/test_trainer.py",
        '"torch.distributed.run", "--nproc_per_node", "2"',
    ),
    "sbatch ": ("tests/test_launching.py", "train.sbatch"),
    "python benchmarks/fuzz_sources.py": ("tests/data_prep/sources/test_source_fuzz.py", "fuzz_sources.read_source("),
    "python benchmarks/fuzz_reader.py": ("tests/data/test_beton_fuzz.py", "fuzz_reader.fuzz("),
    "python benchmarks/pillow_images.py": ("tests/benchmarks/test_pillow_images.py", "module.main("),
    "python benchmarks/fuzz_runs.py": ("tests/benchmarks/test_fuzz_runs.py", "fuzz_runs.read_back("),
    "python recipes/cl_vs_nscl.py": ("tests/training/test_cl_vs_nscl.py", "cl_vs_nscl.py"),
    "python recipes/studies/": ("tests/studies/test_driver.py", "recipes/studies/"),
}

# ------------------------------------------------------------------------------------------------- pages


@dataclass(frozen=True)
class Command:
    text: str
    needs: str  # what it cannot be run without; empty: nothing

    @property
    def elsewhere(self) -> tuple[str, str] | None:
        return next((test for begin, test in ELSEWHERE.items() if re.match(begin, self.text)), None)

    @property
    def is_run_here(self) -> bool:
        return not self.needs and self.elsewhere is None


NEEDS = re.compile(r"\bneeds (a GPU|\d+ GPUs|several machines|Slurm|the network|ImageNet|.*an idle machine)\b")
PROGRAMS = ("make", "fastvarcon", "accelerate", "torchrun", "sbatch", "python", "python3", "pip", "git", "source", "cd")
INDENTED = re.compile(r"(?:(?<=\n\n)|\A)(?:    .*\n|\n(?=    ))+")
FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", re.M | re.S)


def blocks_of(text: str) -> list[str]:
    fenced = [block for _, block in FENCED.findall(text)]
    indented = INDENTED.findall(FENCED.sub("\n", text))
    return fenced + [re.sub("^    ", "", block, flags=re.M) for block in indented]


def is_python(block: str) -> bool:
    return block.startswith(("import ", "from "))


def commands_of(block: str) -> list[Command]:
    found, needs_all = [], ""
    for line in re.sub(r"\\\n\s*", "", block).splitlines():
        code, _, comment = line.partition("  #") if not line.startswith("#") else ("", "", line)
        needs = NEEDS.search(comment)
        if not code.strip():
            needs_all = needs[1] if needs else needs_all
        for command in code.split("&&"):
            words = command.split()
            if words and words[0] in PROGRAMS:
                found.append(Command(command.strip(), needs[1] if needs else needs_all))
    return found


BLOCKS = [
    pytest.param(block, id=f"{page.relative_to(ROOT).with_suffix('')}-{number}")
    for page, text in PAGES.items()
    for number, block in enumerate(blocks_of(text), 1)
    if is_python(block) or any(command.is_run_here for command in commands_of(block))
]
COMMANDS = sorted(
    {command for text in PAGES.values() for block in blocks_of(text) for command in commands_of(block)}, key=str
)
NOT_RUN = [
    command for command in COMMANDS if not command.is_run_here and re.match("fastvarcon|.*recipes/", command.text)
]

# ------------------------------------------------------------------------------------------------- a place to be


def draw_classes(folder: Path, each: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    for name in ("ant", "bee", "cat"):
        (folder / name).mkdir(parents=True)
        for index in range(each):
            coarse = rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)
            Image.fromarray(coarse).resize((24, 20), Image.Resampling.BICUBIC).save(folder / name / f"{index}.jpg")


def write_cifar(folder: Path) -> None:
    folder.mkdir()
    names = [f"class {label}" for label in range(10)]
    (folder / "batches.meta").write_bytes(pickle.dumps({b"label_names": [name.encode() for name in names]}, protocol=2))
    for name in (*(f"data_batch_{index}" for index in range(1, 6)), "test_batch"):
        data = np.random.default_rng(0).integers(0, 256, (10, 3072), dtype=np.uint8)
        entry = {b"data": data, b"labels": list(range(10)), b"filenames": [f"{i}.png".encode() for i in range(10)]}
        (folder / name).write_bytes(pickle.dumps(entry, protocol=2))


def run_here(command: str) -> None:
    """The program of a command, in this process and folder, with small settings."""
    words = shlex.split(command)
    recipe = recipe_of(words)
    if words[0] in ("accelerate", "python") and recipe is not None:
        argv = small([recipe, *words[words.index(recipe) + 1 :]], TRAINING)
        remove(after(argv, "--out"))
        return called(argv, lambda: runpy.run_path(recipe, run_name="__main__"))
    if words[0] == "python" and words[1].startswith("benchmarks/"):
        sys.path.insert(0, "benchmarks")  # as Python does for a script
        try:
            return called(
                small(words[1:], SMALL.get(words[1], {})), lambda: runpy.run_path(words[1], run_name="__main__")
            )
        finally:
            sys.path.remove("benchmarks")
    assert words[0] == "fastvarcon", f"{command}: unknown program; say what it needs, or name its test in ELSEWHERE"
    from fastvarcon.cli import main

    if words[1] == "convert":
        remove(words[3])
    called(small(words, SMALL.get(" ".join(words[1:3]), SMALL.get(words[1], {}))), main)


def recipe_of(words: list[str]) -> str | None:
    return next((word for word in words if re.fullmatch(r"recipes/[\w/]+\.py", word)), None)


def small(words: list[str], settings: dict[str, str]) -> list[str]:
    settings = settings | {flag: value for flag, value in ONLY_IF_GIVEN.items() if flag in words}
    kept = [
        word
        for before, word in zip([None, *words], words, strict=False)
        if word not in settings and before not in settings
    ]
    return kept + [word for pair in settings.items() for word in pair]


def after(words: list[str], flag: str) -> str | None:
    return words[words.index(flag) + 1] if flag in words else None


def remove(name: str | None) -> None:
    """What a command is to make anew."""
    if name is not None and Path(name).is_dir():
        shutil.rmtree(name)
    elif name is not None:
        Path(name).unlink(missing_ok=True)


def called(argv: list[str], program) -> None:
    before, sys.argv = sys.argv, argv
    try:
        program()
    except SystemExit as leaving:
        assert not leaving.code, f"{shlex.join(argv)}: exit code {leaving.code}"
    finally:
        sys.argv = before


@pytest.fixture(scope="module")
def furnished(tmp_path_factory) -> Path:
    """A folder with all that commands of the pages speak of."""
    home = tmp_path_factory.mktemp("furnished")
    draw_classes(home / "images/train", 8, seed=0)
    draw_classes(home / "images/val", 4, seed=1)
    for splits in IMAGES[1:]:
        for split, source in zip(splits, IMAGES[0], strict=True):
            (home / split).parent.mkdir(exist_ok=True)
            (home / split).symlink_to(home / source)
    write_cifar(home / "cifar-10-batches-py")
    for name in ("recipes", "benchmarks"):  # copies: what a command writes beside itself must not change the checkout
        shutil.copytree(ROOT / name, home / name, ignore=shutil.ignore_patterns("__pycache__", "*.png"))
    here = Path.cwd()
    os.chdir(home)
    try:
        for source, file in zip(IMAGES[0], FILES[0], strict=True):
            run_here(f"fastvarcon convert {source} {file}")
        run_here(f"python recipes/imagenette.py --data.train train.beton --data.val val.beton --out {RUNS[0]}")
        for evaluation in ("linear", "knn"):
            run_here(f"fastvarcon eval {evaluation} {RUNS[0]}")
    finally:
        os.chdir(here)
    for files in FILES[1:]:
        for file, source in zip(files, FILES[0], strict=True):
            shutil.copy(home / source, home / file)
    for run in RUNS[1:]:
        shutil.copytree(home / RUNS[0], home / run)
    return home


@pytest.fixture
def there(furnished, tmp_path, monkeypatch) -> Path:
    """A copy of it to work in."""
    shutil.copytree(furnished, tmp_path / "there", symlinks=True)
    monkeypatch.chdir(tmp_path / "there")
    return tmp_path / "there"


# ------------------------------------------------------------------------------------------------- tests


def test_commands_are_found():
    assert len(COMMANDS) >= 50 and any("imagenet_r50" in command.text for command in COMMANDS)
    assert len(BLOCKS) >= 15


@pytest.mark.parametrize("block", BLOCKS)
def test_a_block_runs(there, block):
    if is_python(block):
        return exec(compile(block, "block", "exec"), {"__name__": "block"})
    for command in commands_of(block):
        if command.is_run_here:
            run_here(command.text)


@pytest.mark.parametrize("test", sorted({command.elsewhere for command in COMMANDS if command.elsewhere}))
def test_what_runs_elsewhere_does(test):
    path, words = test
    assert words in (ROOT / path).read_text(), path


@functools.cache
def help_of(*program: str) -> str:
    said = io.StringIO()
    with contextlib.redirect_stdout(said), pytest.MonkeyPatch.context() as patch:
        patch.setenv("COLUMNS", "200")
        patch.chdir(ROOT)
        run_here(shlex.join([*program, "--help"]))
    return said.getvalue()


@pytest.mark.parametrize("command", NOT_RUN, ids=lambda command: command.text)
def test_flags_are_known_to_the_program(command):
    words = shlex.split(command.text)
    recipe = recipe_of(words)
    if words[0] == "fastvarcon":
        program = words[: 3 if words[1] in ("bench", "eval") else 2]
        own = words[len(program) :]
        program += ["--recipe", recipe] if recipe else []  # the settings of the recipe are flags of the command then
    else:
        program, own = ["python", recipe], words[words.index(recipe) + 1 :]
    text = help_of(*program)
    for flag in (word for word in own if word.startswith("--")):
        assert flag in text, flag


@pytest.mark.parametrize("command", [c.text for c in COMMANDS if c.text.startswith("make")])
def test_make_targets_exist(command):
    assert re.search(rf"^{command.split()[1]}:", (ROOT / "Makefile").read_text(), re.M)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_named_files_exist(page):
    for name in re.findall(r"`((?:recipes|tests|benchmarks|docs|kernels|fastvarcon)/[\w./-]+\.\w+)`", PAGES[page]):
        assert (ROOT / name).exists(), name


def test_messages_of_the_faq_are_said_by_the_program():
    source = "".join(
        path.read_text() for folder in ("fastvarcon", "kernels", "data_prep") for path in (ROOT / folder).rglob("*.py")
    )
    plain = re.sub(r'"\s*f?"', "", source)  # texts that go on in the next line
    titles = re.findall(r"^## `(.+)`$", PAGES[ROOT / "docs" / "faq.md"], re.M)
    assert len(titles) >= 5
    for title in titles:
        for part in re.split(r"\.\.\.|`, `", title):
            assert part.strip() in plain, title
