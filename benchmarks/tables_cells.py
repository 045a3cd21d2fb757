"""Formats rows of benchmarks/results/ as Markdown tables, for tables.py and the modules it imports."""

from __future__ import annotations

import csv
import re
import statistics
import sys
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path

RESULTS = Path(__file__).parent / "results"
Row = dict[str, str]
Source = tuple[str, Row]  # the name of a file in results/, without .csv, and one of its rows


@cache
def every_row(name: str) -> list[Row]:
    path = RESULTS / f"{name}.csv"
    if not path.exists():
        sys.exit(f"error: {path} does not exist: measure first, or remove the table that needs it from the page")
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def rows(name: str, **wanted: str) -> list[Row]:
    """Rows of results/NAME.csv whose columns have the wanted values, oldest first. Exits if there are none."""
    found = [row for row in every_row(name) if all(row[column] == value for column, value in wanted.items())]
    if not found:
        sys.exit(f"error: no row of {name}.csv has {wanted}: measure it again, or select other rows in tables_*.py")
    return found


def number(value: float | str) -> str:
    """About three significant digits: 67,309, 13.4, 4.66, 0.07."""
    value = float(value)
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def percent(share: str) -> str:
    return f"{100 * float(share):.2f} %" if share else ""


def median(found: Sequence[Row], column: str) -> float:
    return statistics.median(float(row[column]) for row in found)


def spread(found: Sequence[Row], column: str) -> str:
    """Median (lowest to highest), over the rows and over the rounds of each row (its COLUMN_min and COLUMN_max)."""
    values = [float(row[column]) for row in found if row.get(column)]
    if not values:
        return ""
    stem = column if f"{column}_min" in found[0] else column.removesuffix("_to_torchvision")
    lows = [float(row[f"{stem}_min"]) for row in found if row.get(f"{stem}_min")] or values
    highs = [float(row[f"{stem}_max"]) for row in found if row.get(f"{stem}_max")] or values
    low, middle, high = number(min(lows)), number(statistics.median(values)), number(max(highs))
    return middle if low == high else f"{middle} ({low} to {high})"


def once(names: Sequence[str]) -> list[str]:
    """The names, with an empty string for each that repeats the one above it."""
    return [name if name != above else "" for above, name in zip([None, *names], names, strict=False)]


def table(head: Sequence[str], body: Iterable[Sequence[str]], sources: Iterable[Source]) -> str:
    """A Markdown table with aligned columns (numbers to the right), followed by the line that names its sources."""
    lines = [list(head), *map(list, body)]
    columns = list(zip(*lines, strict=True))
    right = [
        index > 0 and all(not cell or cell[0].isdigit() for cell in cells[1:]) for index, cells in enumerate(columns)
    ]
    padded = []
    for (heading, *cells), flush in zip(columns, right, strict=True):
        width = max(3, len(heading), *map(len, cells))
        ruler = "-" * (width - 1) + ":" if flush else "-" * width
        padded.append([cell.rjust(width) if flush else cell.ljust(width) for cell in (heading, ruler, *cells)])
    return paragraph("\n".join(f"| {' | '.join(line)} |" for line in zip(*padded, strict=True)), sources)


def paragraph(text: str, sources: Iterable[Source]) -> str:
    """The text between empty lines, followed by a line that says when, where and in which files it was measured."""
    found = list(sources)
    files = ", ".join(sorted({f"`{name}.csv`" for name, _ in found}))
    machines = machines_of(row["machine"] for _, row in found if "machine" in row)
    dates = sorted({row["date"] for _, row in found})
    when = dates[0] if len(dates) == 1 else f"{dates[0]} to {dates[-1]}"
    where = f" on {' and '.join(machines)}" if machines else ""
    return f"\n{text}\n\n<sub>Measured {when}{where}. Rows and commands: {files} in `benchmarks/results/`.</sub>\n\n"


def machines_of(names: Iterable[str]) -> list[str]:
    """The machines that the rows name; each CPU once, with all numbers of its cores that were used."""
    cores: dict[str, set[str]] = {}
    for name in names:
        count, cpu = re.fullmatch(r"(?:(\d+) (?:x|cores of) )?(.*)", re.sub(r"\(R\)| Processor", "", name)).groups()
        cores.setdefault(cpu, set()).update([count] if count else [])
    shares = {cpu: " or ".join(sorted(counts, key=int)) for cpu, counts in cores.items()}
    return sorted(
        f"{share} {'core' if share == '1' else 'cores'} of {cpu}" if share else cpu for cpu, share in shares.items()
    )
