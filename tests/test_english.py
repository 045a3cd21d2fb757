"""The text is plain English: none of the turns of phrase that make a reader from elsewhere stop.

CALQUES lists them, each with a better word, a sentence that it must find and one that it must not. SCOPES lists the
texts: a set of Markdown pages (their prose and the comments in their code) or of Python files (strings and comments).
To widen the scope, add a line there. A spelling that a program prints is quoted in backticks and not looked at.
"""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]

SCOPES = {
    "pages": ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "docs/*.md"),
    "settings": (
        "fastvarcon/config.py",
        "fastvarcon/evaluation/options.py",
        "fastvarcon/commands/[c-z]*.py",
        "fastvarcon/commands/bench.py",
        "fastvarcon/commands/bench_step.py",
    ),
}


class Calque(NamedTuple):
    pattern: str  # a space also matches the end of a line
    better: str
    bad: str
    fine: str
    scopes: frozenset[str] = frozenset(SCOPES)


UNITS = (
    "bytes|images|image|rows|row|views|view|pairs|numbers|floats|flops|instructions|seconds|samples|launches|steps|files|"
    "draws|exponentials|calls|values|value|once|twice|one|two|decay|[KMG]B|ms"
)
EACH = (
    "step|class|pixel|thread|GPU|image|row|byte|second|minute|epoch|process|launch|sample|worker|batch|line|pass|run|"
    "core|program|tile|clock|number|view"
)
THINGS = "image|file|number|tensor|member|point|part|sum|score|recipe|measure|table|JPEG|checkpoint|text|label|row"
PLACES = "in|beside|on|under|within|at|below|above|there|here|anywhere|side"

CALQUES = (
    Calque(
        r"(go|goes|going|went) on(?! (a|an|each|one|top)\b)",
        "resume, continue",
        "the same command goes on behind them",
        "what goes on a GPU",
    ),
    Calque(r"behind", "after, following, below", "times 0.2 behind epoch 60", "after epoch 60"),
    Calque(r"reckon\w*", "computed, estimated", "what is measured and what is reckoned", "computed in float64"),
    Calque(r"anew", "again; rewritten", "is written anew after each", "is a new folder"),
    Calque(r"nobody('s)?", "no row, no process", "with nobody in its denominator", "with no row in its denominator"),
    Calque(r"for want of", "for lack of; because there is no", "died for want of memory", "for lack of memory"),
    Calque(r"in (the )?place of", "instead of", "give them in the place of the folder", "sorts the array in place"),
    Calque(
        r"(?<!there )((is|are) none of|(if|where) (it|that|this) is none|one that is none)",
        "is not a; raises if it is not one",
        "gets a number that is none of a class",
        "there is none of that kind",
    ),
    Calque(
        rf"(?<!there )(is|are) no ({THINGS})s?",
        "is not a",
        "augmentation is no part of it",
        "there is no file of that name",
    ),
    Calque(r"that cannot be(?= ?([.,;:)]|or\b|$))", "invalid", "shapes that cannot be.", "a file that cannot be read"),
    Calque(
        rf"(lie|lies) ({PLACES})(?! ?[\[(])",
        "is, is stored",
        "the partial file lies beside the output",
        "tau2 lies in [tau1 - eps, tau1 + eps]; it lies between 0 and 1",
    ),
    Calque(
        rf"stands ({PLACES}|between|apart|before)(?! for)",
        "is, is written",
        "maths stands in the docstring",
        "it stands for the mean, the next image stands in for it",
    ),
    Calque(
        r"whole (file|checkpoint|image|JPEG|dataset|data set|chain|batch|recipe|network|width|view|record|shard|run)s?",
        "complete, full, intact",
        "X is not a whole checkpoint",
        "takes whole numbers",
    ),
    Calque(
        r"((is|are|not|proved|it|them) whole)(?! number)",
        "complete, intact",
        "only when the new one is whole",
        "a whole",
    ),
    Calque(rf"({UNITS}) an? ({EACH})", "per", "3 bytes a pixel, images a class", "a row is a class; two per class"),
    Calque(
        r"meets? (an?|the|such an?|this|that|its) (\w+ )?(mistake|error|failure|image|file)s?",
        "hits an error; finds, reads",
        "all of them meet the same mistake",
        "the lines meet at a point",
    ),
    Calque(
        r"(rank|process|worker|thread|line)(s|es)? (thinks?|says?|knows?)",
        "prints, shows, reports, runs",
        "the first process says it",
        "the program says what to do",
    ),
    Calque(
        r"who (decodes|else|takes part|is in|is who|is left out)",
        "which row, which process, the loader",
        "who is in a batch",
        "users who take part",
    ),
    Calque(r"a mistake of", "a user's mistake", "a mistake of the user is one line", "a user's mistake is one line"),
    Calque(r"passed over", "skipped, ignored", "hidden files are passed over", "the batch is passed on"),
    Calque(r"for ever", "permanently", "a choice is never for ever", "for every choice"),
    Calque(r"beside each other", "side by side", "both beside each other", "one beside the other"),
    Calque(r"nothing but", "only", "a batch is nothing but a list", "nothing else"),
    Calque(r"where there (is|are) (one|none)", "if there is one", "auto takes CUDA where there is one", "where it is"),
    Calque(
        r"(?<!you )(?<!we )wants? (an?|one|two|some|several|ROWS)",
        "needs, takes",
        "a thousand images want some thousands of steps",
        "if you want a sheet",
    ),
    Calque(r"(survival|eyes)", "crash safety, monitoring", "eyes: metrics.jsonl", "monitoring", frozenset({"pages"})),
)


def finder(calque: Calque) -> re.Pattern[str]:
    return re.compile(rf"\b(?:{calque.pattern})(?!\w)".replace(" ", r"\s"), re.I)


FENCED = re.compile(r"^```.*?^```$", re.M | re.S)
INDENTED = re.compile(r"^    .*$", re.M)
QUOTED = re.compile(r"`[^`]+`")


def of_a_page(text: str) -> Iterator[tuple[int, str]]:
    """(first line, text): the prose, with blanks for what is quoted; of code only its comments."""

    def comments(code: re.Match[str]) -> str:
        return "\n".join(line.partition("  #")[2] for line in code[0].split("\n"))

    def blank(quote: re.Match[str]) -> str:
        return re.sub(r"\S", "·", quote[0])

    yield 1, QUOTED.sub(blank, INDENTED.sub(comments, FENCED.sub(comments, text)))


def of_a_module(text: str) -> Iterator[tuple[int, str]]:
    """(first line, text) of every string and comment of a Python file."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.lineno, node.value
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string


def unindented(text: str) -> str:
    """The same lines, with single spaces between words."""
    return re.sub(r"[ \t]*\n[ \t]*", "\n", re.sub(r"[ \t]+", " ", text))


def found_in(path: Path, scope: str) -> list[str]:
    text = path.read_text(encoding="utf-8")
    parts = [(first, unindented(part)) for first, part in (of_a_page if path.suffix == ".md" else of_a_module)(text)]
    return [
        f"{path.relative_to(ROOT)}:{first + part.count(chr(10), 0, match.start())}: {match[0]!r}: say {calque.better!r}"
        for calque in CALQUES
        if scope in calque.scopes
        for first, part in parts
        for match in finder(calque).finditer(part)
    ]


@pytest.mark.parametrize("scope", SCOPES)
def test_no_calque(scope):
    files = [path for pattern in SCOPES[scope] for path in sorted(ROOT.glob(pattern))]
    assert files
    found = [line for path in files for line in found_in(path, scope)]
    assert not found, "\n".join(found)


@pytest.mark.parametrize("calque", CALQUES, ids=lambda calque: calque.better)
def test_a_pattern_finds_its_calque_and_nothing_else(calque):
    assert finder(calque).search(calque.bad)
    assert not finder(calque).search(calque.fine)


def test_code_and_quotes_of_a_page_are_left_out():
    page = "Say `goes on`.\n\n    it goes on  # it goes\n    on\n\n```\nreckoned  # anew\n```\nIt goes\non.\n"
    [(first, text)] = ((first, unindented(text)) for first, text in of_a_page(page))
    assert first == 1 and "reckoned" not in text and "anew" in text
    assert [text.count("\n", 0, m.start()) + 1 for m in finder(CALQUES[0]).finditer(text)] == [9]


def test_strings_and_comments_of_a_module_are_read():
    module = 'x = f"goes on {1} anew"  # reckoned\n\n\ndef goes_on():\n    """It\n    goes on."""\n'
    assert {*of_a_module(module)} == {(5, "It\n    goes on."), (1, "goes on "), (1, " anew"), (1, "# reckoned")}
