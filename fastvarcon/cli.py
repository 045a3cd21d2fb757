"""The `fastvarcon` command. Heavy imports wait until a command needs them, so that `--help` answers at once."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import tyro
from tyro.conf import Positional, arg

from fastvarcon.commands.completion import completion
from fastvarcon.commands.convert import convert
from fastvarcon.commands.doctor import doctor
from fastvarcon.commands.export import export
from fastvarcon.commands.inspect import inspect
from fastvarcon.commands.merge import merge
from fastvarcon.commands.settings import with_recipe
from fastvarcon.commands.verify import verify
from fastvarcon.errors import UserError, exits_cleanly
from fastvarcon.terminal import say, warn


def evaluate() -> None:
    """Score an encoder: `fastvarcon eval linear RUN`, knn, few-shot, transfer, corruption and others."""
    # replaced in main by the commands of its own, so that each has its own flags


def report(
    run: Annotated[Positional[Path], arg(metavar="RUN", help="Run folder of a training, or folder of scores.")],
    out: Annotated[Path | None, arg(metavar="HTML", help="Page to write; default RUN/report.html.")] = None,
) -> None:
    """Print the scores of a run and write one self-contained page with its scores and curves."""
    if out is not None and out.suffix != ".html":
        raise UserError(f"--out {out}: the page's name must end in .html")
    from rich.console import Console

    from fastvarcon.reporting.html import write_report
    from fastvarcon.reporting.scored import read_scored
    from fastvarcon.reporting.tables import score_table

    scored = read_scored(run)
    warn(*(f"left out: {problem}" for problem in scored.problems))
    Console().print(score_table(scored))
    say(str(write_report(run, out)))


def bench() -> None:
    """Measure against what people use instead: `fastvarcon bench loader FILE`, `fastvarcon bench kernels --views`."""
    # replaced in main by the commands of its own, so that each has its own flags


COMMANDS: dict[str, Callable[..., None]] = {
    "convert": convert,
    "merge": merge,
    "verify": verify,
    "inspect": inspect,
    "eval": evaluate,
    "report": report,
    "export": export,
    "doctor": doctor,
    "bench": bench,
    "completion": completion,
}


def run() -> None:
    if sys.argv[1:] in (["--version"], ["-V"]):
        from fastvarcon import __version__

        return print(f"fastvarcon {__version__}")
    if sys.argv[1:2] == ["bench"]:
        from fastvarcon.commands.bench import BENCHMARKS

        benchmarks = with_recipe(BENCHMARKS, sys.argv)
        return tyro.extras.subcommand_cli_from_dict(benchmarks, prog="fastvarcon bench", args=sys.argv[2:])
    if sys.argv[1:2] == ["eval"]:
        from fastvarcon.commands.evaluate import evaluate as run_evaluation

        return run_evaluation(sys.argv[2:])
    tyro.extras.subcommand_cli_from_dict(
        with_recipe(COMMANDS, sys.argv),
        prog="fastvarcon",
        description=(
            "Train image encoders with supervised contrastive losses. Convert a dataset once, train with "
            "`accelerate launch recipes/NAME.py`, then score and report the run folder."
        ),
    )


main = exits_cleanly(run)

if __name__ == "__main__":
    main()
