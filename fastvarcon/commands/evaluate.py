"""`fastvarcon eval`: one sub-command per evaluation, each with its own flags."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro
from tyro.conf import Positional, arg

from fastvarcon.errors import UserError
from fastvarcon.evaluation.options import EVALUATIONS, EvalOptions
from fastvarcon.terminal import say, warn


@dataclass
class Compare:
    """Compare runs in one table and on one page, with significance over training seeds."""

    runs: Annotated[Positional[tuple[Path, ...]], arg(metavar="RUN [RUN ...]", help="Two or more folders with scores.")]
    out: Path = Path("compare.html")
    """Page to write; a .json file beside it contains the figures."""


EVALUATE: dict[str, Callable[..., Any]] = {
    **{name: evaluation.options for name, evaluation in EVALUATIONS.items()},
    "compare": Compare,
}
"""The options of each sub-command."""


def evaluate(args: list[str]) -> None:
    """Parse the words after `fastvarcon eval` and run the evaluation."""
    options = parse(args)
    command = shlex.join(["fastvarcon", "eval", *args])
    if isinstance(options, Compare):
        _compare(options, command)
    else:
        name = next(name for name, evaluation in EVALUATIONS.items() if type(options) is evaluation.options)
        _score(name, options, command)


def parse(args: list[str]) -> EvalOptions | Compare:
    """Parse the words after `fastvarcon eval` into options."""
    return tyro.extras.subcommand_cli_from_dict(
        EVALUATE,
        prog="fastvarcon eval",
        description="Score an encoder. No choice is ever made on the held-out images. "
        "Writes RUN/eval/NAME.json and RUN/report.html.",
        args=args,
    )


def _score(name: str, options: EvalOptions, command: str) -> None:
    options.validate()
    from fastvarcon.evaluation.job import measure

    measured = measure(name, options, command)
    if measured is None:  # not the first process
        return
    from fastvarcon.reporting.html import write_report
    from fastvarcon.reporting.scored import read_scored
    from fastvarcon.reporting.tables import in_words

    say(*in_words(measured.stem, measured.figures).split("\n"))  # before anything is written: it may have taken hours
    warn(*measured.store())
    warn(*(f"left out: {problem}" for problem in read_scored(measured.out).problems))
    say(str(write_report(measured.out)))


def _compare(options: Compare, command: str) -> None:
    if len(options.runs) < 2:
        raise UserError("compare takes two or more run folders")
    if options.out.suffix != ".html":
        raise UserError(f"--out {options.out}: the page's name must end in .html")
    from rich.console import Console

    from fastvarcon.reporting.compare import compare, compare_table, write_page
    from fastvarcon.reporting.scored import read_scored

    runs = [read_scored(run) for run in options.runs]
    warn(*(f"left out: {problem}" for run in runs for problem in run.problems))
    result = compare(runs, command)
    Console().print(compare_table(result))
    write_page(result, options.out)
    say(str(options.out))
