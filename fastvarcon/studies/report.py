"""The last word of a study: means over seeds, and whether a point differs from the first one."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from fastvarcon.reporting.compare import figures, test
from fastvarcon.reporting.tables import percent
from fastvarcon.studies.figure import SCORES, Rows, groups, names
from fastvarcon.studies.grid import Study


def print_report(study: Study, rows: Rows) -> None:
    Console().print(report(study, rows))


def report(study: Study, rows: Rows) -> Table:
    """A row a point: mean ± standard deviation over training seeds, and the p-value of its difference from the first
    row (`fastvarcon eval compare`: two-sided, paired where the seeds are the same, not corrected for their number)."""
    table = Table("point", "n", title=study.name)
    for title in SCORES.values():
        table.add_column(title, justify="right")
        table.add_column("p", justify="right")
    made = [_group(study, rows, key, runs) for key, runs in groups(rows).items()]
    for group in made:
        cells = []
        for score in SCORES:
            found = figures([run[score] for run in group["by_run"]])
            tested = None if group is made[0] else test(made[0], group, score)["p"]
            cells += [percent(found["mean"], found["std"]), "" if tested is None else f"{tested:.2g}"]
        table.add_row(group["name"], str(len(group["by_run"])), *cells)
    return table


def _group(study: Study, rows: Rows, key: tuple[str, str], runs: Rows) -> dict:
    """As `compare.test` takes it."""
    series, point = key
    return {
        "name": f"{series}, {point}" if len(names(rows, "series")) > 1 else point,
        "seeds": [int(row["seed"]) for row in runs],
        "by_run": [{score: float(row[score]) for score in SCORES} for row in runs],
    }
