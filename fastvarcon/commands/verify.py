"""`fastvarcon verify`: checks that a converted dataset is intact."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from fastvarcon.errors import UserError
from fastvarcon.machine import available_cores

CONFLICTS_SHOWN = 5


def verify(
    path: Annotated[
        Positional[Path],
        arg(metavar="PATH", help="A .beton file, a folder or pattern of its shards, or a folder of tar shards."),
    ],
    quick: Annotated[bool, arg(help="Only compare content hashes, decode nothing.")] = False,
    workers: Annotated[int, arg(help="Threads; 0 = one per core.")] = 0,
) -> None:
    """Check every record of a dataset. Exit code 0: intact; 1: bad records, which are listed; 2: cannot be opened."""
    from fastvarcon.bus_error import explained
    from fastvarcon.data.records import open_records
    from fastvarcon.data_prep.verify import verify as run
    from fastvarcon.progress import Counter
    from fastvarcon.terminal import say

    if workers < 0:
        raise UserError(f"--workers must be 0 (one per core) or more, got {workers}")
    records = open_records(path)
    if quick and records.hashes is None:
        raise UserError(f"{path} holds no content hashes, as files of ffcv do: verify it without --quick")
    start = time.perf_counter()
    with explained(str(path)), Counter(f"verifying {path.name}", len(records)) as counter:
        found = run(records, workers=workers or available_cores(), decode=not quick, on_images=counter.advance)
    seconds = time.perf_counter() - start

    def labelled(label: int) -> str:
        return f"class {records.classes[label]}" if label >= 0 else "unlabelled"

    lines = [f"bad: {record.reason} [{labelled(record.label)}]" for record in found.bad]
    if found.conflicts:
        lines.append(f"warning: {len(found.conflicts):,} images are stored more than once, under different labels:")
        for group in found.conflicts[:CONFLICTS_SHOWN]:
            same = ", ".join(f"{index} ({labelled(int(records.labels[index]))})" for index in group)
            lines.append(f"  the same bytes: records {same}")
        lines += ["  ..."] * (len(found.conflicts) > CONFLICTS_SHOWN)
    hashes = "" if records.hashes is not None else ", no content hashes to compare"
    speed = records.sizes.sum() / 1e6 / seconds
    lines.append(f"{path}: {len(records):,} records, {len(found.bad):,} bad, {speed:,.0f} MB/s{hashes}")
    say(*lines)
    if found.bad:
        raise SystemExit(1)
