"""`fastvarcon inspect`: describes a converted dataset in words and pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from fastvarcon.errors import UserError
from fastvarcon.terminal import say
from fastvarcon.whole_file import whole_file

VIEWS_MOST = 64


def inspect(
    path: Annotated[
        Positional[Path],
        arg(metavar="PATH", help="A .beton file (ours or ffcv's), a pattern of shards, or a folder of tar shards."),
    ],
    views: Annotated[
        int | None,
        arg(
            metavar="N",
            help="Also draw N images of different classes, each beside the two views that training makes of it.",
        ),
    ] = None,
    policy: Annotated[
        str | None, arg(metavar="NAME", help="With --views: augmentation, as for --data.policy; default simaugment.")
    ] = None,
    size: Annotated[
        int | None,
        arg(
            metavar="PX",
            help="With --views: side of a view in pixels; default 224, or the side of the images if they are small.",
        ),
    ] = None,
    seed: Annotated[
        int | None,
        arg(metavar="INT", help="With --views: draw the views of the first epoch with this --train.seed; default 0."),
    ] = None,
    out: Annotated[
        Path | None, arg(metavar="PNG", help="With --views: file for the picture; default views.png.")
    ] = None,
) -> None:
    """Describe a converted dataset; with --views N, show what the network sees."""
    if views is None:
        for flag, value in (("policy", policy), ("size", size), ("seed", seed), ("out", out)):
            if value is not None:
                raise UserError(f"--{flag} says how views are drawn: add --views 8")
    from fastvarcon.data.records import open_records
    from fastvarcon.reporting.inspect import describe

    records = open_records(path)
    say(*describe(records, path).split("\n"))
    records.close()
    if views is not None:
        picture = out or Path("views.png")
        _draw(path, views, policy or "simaugment", size, seed or 0, picture)
        say(str(picture))


def _draw(path: Path, views: int, policy: str, size: int | None, seed: int, out: Path) -> None:
    if not 1 <= views <= VIEWS_MOST:
        raise UserError(f"--views must lie between 1 and {VIEWS_MOST}, got {views}")
    if size is not None and not 1 <= size <= 4096:
        raise UserError(f"--size must lie between 1 and 4096, got {size}")
    if not 0 <= seed < 2**63:
        raise UserError(f"--seed must lie between 0 and 2**63 - 1, got {seed}")
    if not out.parent.is_dir():
        raise UserError(f"the folder {out.parent} does not exist: make it first")
    if out.suffix.lower() != ".png":
        raise UserError(f"--out must name a .png file, got {out}")
    from fastvarcon.data.augment import EVAL, find_policy
    from fastvarcon.data.backends import open_backend
    from fastvarcon.machine import available_cores
    from fastvarcon.reporting.contact_sheet import contact_sheet

    if policy != EVAL:
        find_policy(policy)
    images = open_backend("cpu", path, available_cores())
    try:
        sheet = contact_sheet(images, path.name, count=views, policy=policy, size=size, seed=seed)
    finally:
        images.close()
    with whole_file(out, "give another place with --out") as aside:
        sheet.save(aside, format="PNG")
