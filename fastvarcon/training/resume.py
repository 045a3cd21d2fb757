"""What a run continues from: its newest intact checkpoint, provided that the images behind it are still the same."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from fastvarcon.config import Config, read_flat
from fastvarcon.data.content import Content
from fastvarcon.errors import UserError
from fastvarcon.run_folder import RunFolder, run_identity
from fastvarcon.training.checkpoint import load_newest


class Resumed(NamedTuple):
    state: dict
    warnings: list[str]
    """Checkpoints that were passed over."""
    notes: list[str]
    """What else the log should say."""


def resume(folder: RunFolder, config: Config, content: Content, samples: int) -> Resumed | None:
    """The state of the run in `folder`; None if there is none. Reads, writes nothing.

    samples: of an epoch, which earlier versions kept as the number of images.

    Raises:
        UserError: no intact checkpoint, or one of a run on other images than those of `content`.
    """
    if not folder.resumable:
        return None
    before = read_flat(folder.config).get("data.train")
    at = before if isinstance(before, str) else str(config.data.train)
    warnings: list[str] = []
    state = load_newest(folder, run_identity(config), warnings.append, earlier=run_identity(config, data_train=at))
    data = state["data"]
    if "records" not in data and data["images"] == samples:
        data = {**data, "images": content.images}
    return Resumed(state, warnings, _compare(folder.path, data, content, Path(at), config.data.train_file))


def _compare(run: Path, data: dict, content: Content, before: Path, now: Path) -> list[str]:
    """Lines for the log. Raises UserError for other images than those that `data` tells of."""
    moved = before != now and before.resolve() != now.resolve()
    if differences := content.differences(data):
        what = "does not hold the images" if moved else "has changed since"
        since = f"that {run} was begun with, {before}" if moved else f"{run} was begun"
        raise UserError(
            f"{now} {what} {since} ({'; '.join(differences)}): give a new --out, or the old images to resume"
        )
    if "records" not in data and moved:
        raise UserError(
            f"{run} was begun with {before} by a version that kept no hash of the images, so {now} cannot be compared "
            "with it: give the old path (a link will do), or a new --out"
        )
    if "records" not in data:
        return [f"{now}: the number of images and the class names are those of the run; it kept no hash of the images"]
    if moved:
        return [f"{now} holds the same images as {before}, with which the run was begun (by {content.basis})"]
    return []
