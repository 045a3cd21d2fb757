"""Generates the measured tables of README and docs from the rows in benchmarks/results/.

    python benchmarks/tables.py            write the tables into the pages (`make tables`)
    python benchmarks/tables.py --check    print a diff and exit with 1 if a page differs from the rows

A page contains `<!-- table:NAME -->` and `<!-- /table -->`, each on a line of its own; the text of TABLES[NAME]() goes
between them. tables_kernels.py, tables_scores.py and tables_speed.py list the column values that select the rows of
each table. If the same thing was measured several times, the table shows the newest measurement, or (where a table says
so) the median of the medians with the range over all measurements.
"""

from __future__ import annotations

import argparse
import difflib
import re
import sys
from pathlib import Path

import tables_kernels
import tables_scores
import tables_speed

ROOT = Path(__file__).parents[1]
MARKED = re.compile(r"(<!-- table:([\w-]+) -->\n)(.*?)(<!-- /table -->)", re.S)
TABLES = {**tables_kernels.TABLES, **tables_scores.TABLES, **tables_speed.TABLES}


def filled(page: str) -> str:
    """The page with every table generated again from the rows."""

    def one(match: re.Match[str]) -> str:
        if match[2] not in TABLES:
            sys.exit(f"error: there is no table {match[2]!r}: choose one of {', '.join(TABLES)}")
        return match[1] + TABLES[match[2]]() + match[4]

    return MARKED.sub(one, page)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 if a page is out of date")
    args = parser.parse_args()
    stale = False
    for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))):
        before = path.read_text(encoding="utf-8")
        after = filled(before)
        if args.check:
            sys.stdout.writelines(
                difflib.unified_diff(before.splitlines(True), after.splitlines(True), str(path), "rows")
            )
        elif after != before:
            path.write_text(after, encoding="utf-8")
        stale |= after != before
    if args.check and stale:
        sys.exit("error: a table differs from benchmarks/results/: run `make tables` and commit the pages")


if __name__ == "__main__":
    main()
