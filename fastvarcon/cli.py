"""The `fastvarcon` command. Heavy imports wait until a command needs them, so that `--help` answers at once."""

from __future__ import annotations

import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro
from tyro.conf import Positional, arg

from fastvarcon.commands.convert import convert
from fastvarcon.commands.doctor import doctor
from fastvarcon.commands.export import export
from fastvarcon.commands.inspect import inspect
from fastvarcon.commands.merge import merge
from fastvarcon.commands.settings import with_recipe
from fastvarcon.commands.verify import verify
from fastvarcon.config import BackendName
from fastvarcon.errors import UserError, exits_cleanly
from fastvarcon.machine import available_cores


@dataclass
class EvalData:
    train: Path | None = None
    """Labelled images that the probe learns from or that vote; default: those of the run."""
    val: Path | None = None
    """Held-out labelled images that are scored; default: those of the run."""
    backend: BackendName | None = None
    """Data backend; default: that of the run (for resident: cpu, as every image is read once)."""
    workers: int = 0
    """Decoding threads; 0 = one per core."""


def evaluate(
    name: Annotated[
        Positional[Literal["linear", "knn"]], arg(help="linear: linear probe. knn: cosine nearest neighbours.")
    ],
    run: Annotated[Positional[Path], arg(metavar="RUN", help="Run folder of a training.")],
    data: EvalData,
    k: Annotated[
        tuple[int, ...] | None, arg(help="knn: numbers of neighbours; default 1 5 20 200. The headline is k = 20.")
    ] = None,
    features: Annotated[
        Literal["encoder", "pixels"],
        arg(help="What is scored: the encoder's features, or raw pixels as the floor an encoder must beat."),
    ] = "encoder",
    seed: Annotated[int, arg(help="Seeds the probe's order and its split of the training set.")] = 0,
) -> None:
    """Score the encoder of a run; writes RUN/eval/NAME.json. Nothing is ever chosen on the held-out images."""
    from fastvarcon.config import Config

    if k is not None and (not k or min(k) < 1):
        raise UserError("--k needs one or more numbers of neighbours, each at least 1")
    if data.workers < 0:
        raise UserError(f"--data.workers must be 0 (one per core) or more, got {data.workers}")
    if not 0 <= seed < 2**63:
        raise UserError(f"--seed must lie between 0 and 2**63 - 1, got {seed}")
    settings = Config.load(run / "config.json").data
    train, val = data.train or settings.train, data.val or settings.val
    if val is None:
        raise UserError("--data.val is missing: give the held-out file to score on")
    from fastvarcon.evaluation.scores import EvalRequest
    from fastvarcon.evaluation.scores import evaluate as score

    result = score(
        name,
        EvalRequest(
            run=run,
            train=train,
            val=val,
            backend=data.backend or {"resident": "cpu"}.get(settings.backend, settings.backend),
            workers=data.workers or available_cores(),
            seed=seed,
            command=shlex.join(["fastvarcon", *sys.argv[1:]]),
            ks=k,
            pixels=features == "pixels",
        ),
    )
    top5 = f", top-5 {result['top5']:.2%}" if result.get("top5") is not None else ""
    print(f"{name} on {result['features']}: top-1 {result['top1']:.2%}{top5}  ({result['protocol']})")
    for neighbours, top1 in result.get("top1_by_k", {}).items():
        print(f"  k = {neighbours:>4}  {top1:.2%}")


def report(run: Annotated[Positional[Path], arg(metavar="RUN", help="Run folder of a training.")]) -> None:
    """Print the scores of a run and write RUN/report.html, one self-contained page with its curves."""
    from rich.console import Console

    from fastvarcon.reporting.html import write_report
    from fastvarcon.reporting.tables import score_table

    path = write_report(run)
    Console().print(score_table(run))
    print(path)


def bench() -> None:
    """Measure against what people use instead: `fastvarcon bench loader FILE`, `fastvarcon bench kernels --views`."""
    # replaced in main by the commands of its own, so that each has its own flags


COMMANDS = {
    "convert": convert,
    "merge": merge,
    "verify": verify,
    "inspect": inspect,
    "eval": evaluate,
    "report": report,
    "export": export,
    "doctor": doctor,
    "bench": bench,
}


@exits_cleanly
def main() -> None:
    if sys.argv[1:] in (["--version"], ["-V"]):
        from fastvarcon import __version__

        return print(f"fastvarcon {__version__}")
    if sys.argv[1:2] == ["bench"]:
        from fastvarcon.commands.bench import BENCHMARKS

        benchmarks = with_recipe(BENCHMARKS, sys.argv)
        return tyro.extras.subcommand_cli_from_dict(benchmarks, prog="fastvarcon bench", args=sys.argv[2:])
    tyro.extras.subcommand_cli_from_dict(
        with_recipe(COMMANDS, sys.argv),
        prog="fastvarcon",
        description=(
            "Train image encoders with supervised contrastive losses. Convert a dataset once, train with "
            "`accelerate launch recipes/NAME.py`, then score and report the run folder."
        ),
    )


if __name__ == "__main__":
    main()
