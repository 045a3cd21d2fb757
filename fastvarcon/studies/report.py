"""The last word of a study: means over seeds, and whether they differ by more than chance."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from fastvarcon.reporting.compare import figures, test
from fastvarcon.reporting.tables import percent
from fastvarcon.studies.figure import SCORES, Rows, groups, names
from fastvarcon.studies.grid import Study
from fastvarcon.terminal import add_row


def print_report(study: Study, rows: Rows) -> None:
    Console().print(report(study, rows))


def report(study: Study, rows: Rows) -> Table:
    """A row a point: mean ± standard deviation over training seeds, and the p-value of its difference from the same
    point of the first series, or where there is one series from the first point (`fastvarcon eval compare`: two-sided,
    paired where the seeds are the same, not corrected for their number)."""
    series = names(rows, "series")
    against = f"p: against {series[0]} at the same point" if len(series) > 1 else "p: against the first row"
    table = Table("point", "n", title=study.name, caption=f"± over training seeds; {against}")
    for title in SCORES.values():
        table.add_column(title, justify="right")
        table.add_column("p", justify="right")
    made = {key: _group(key, runs) for key, runs in groups(rows).items()}
    for (line, point), group in made.items():
        other = made.get((series[0], point)) if len(series) > 1 else next(iter(made.values()))
        cells = []
        for score in SCORES:
            found = figures([run[score] for run in group["by_run"]])
            p = None if other in (None, group) else test(other, group, score)["p"]
            cells += [percent(found["mean"], found["std"]), "" if p is None else f"{p:.2g}"]
        add_row(table, point if len(series) == 1 else f"{line}, {point}", str(len(group["by_run"])), *cells)
    return table


def _group(key: tuple[str, str], runs: Rows) -> dict:
    """As `compare.test` takes it."""
    return {
        "name": ", ".join(key),
        "seeds": [int(row["seed"]) for row in runs],
        "by_run": [{score: float(row[score]) for score in SCORES} for row in runs],
    }
