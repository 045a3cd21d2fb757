"""`fastvarcon merge`."""

from __future__ import annotations

import glob
import time
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from fastvarcon.errors import UserError


def merge(
    out: Annotated[
        Positional[Path],
        arg(
            metavar="OUT",
            help="The .beton file to write; an existing one is replaced only when the new one is complete.",
        ),
    ],
    shards: Annotated[
        Positional[tuple[Path, ...]],
        arg(metavar="SHARD [SHARD ...]", help='.beton files, or a pattern: "train-*.beton".'),
    ],
) -> None:
    """Join .beton files into one; the shards of `convert --shard i/n` in their order."""
    from fastvarcon.bus_error import explained
    from fastvarcon.data_prep.merge import merge as run
    from fastvarcon.data_prep.merge import open_parts
    from fastvarcon.data_prep.skipped import skipped_path
    from fastvarcon.progress import Counter, format_seconds
    from fastvarcon.terminal import say

    parts = open_parts([path for shard in shards for path in _matches(shard)])
    start = time.perf_counter()
    with explained("the parts"), Counter(f"merging {len(parts)} files", sum(map(len, parts))) as counter:
        done = run(parts, out, counter.advance)
    say(
        f"{out}: {done.images:,} images, {len(parts[0].classes):,} classes, {out.stat().st_size / 1e6:,.1f} MB, "
        f"in {format_seconds(time.perf_counter() - start)}"
    )
    if done.skipped:
        say(f"{done.skipped:,} broken files had been skipped; they are listed in {skipped_path(out)}")


def _matches(path: Path) -> list[Path]:
    """The sorted files that match a pattern; any other path unchanged."""
    if path.exists() or not glob.has_magic(str(path)):
        return [path]
    paths = sorted(map(Path, glob.glob(str(path))))
    if not paths:
        raise UserError(f"no file matches {path}: give the .beton files to merge")
    return paths
