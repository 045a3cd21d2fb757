"""A run, or a folder of scores, as its files say, each read once. A damaged one is named and left out."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

from fastvarcon.config import Config, read_flat
from fastvarcon.errors import UserError
from fastvarcon.evaluation import figures
from fastvarcon.json_file import read_json
from fastvarcon.reporting.titles import LOSS_TITLES, ORDER
from fastvarcon.run_folder import RunFolder, read_metrics

Content = TypeVar("Content")


@dataclass(frozen=True)
class Scored:
    path: Path
    settings: dict[str, object] | None
    """config.json as it is written; None where there is none."""
    config: Config | None
    summary: dict | None
    """What the training wrote at its end."""
    metrics: list[dict]
    scores: dict[str, dict]
    """eval/*.json by their stems, encoder before pixels; every one holds what all scores do (evaluation/figures.py)."""
    incomplete: frozenset[str]
    """Stems of scores whose further figures are not those of this version: of them no more than that is shown."""
    stale: frozenset[str]
    """Stems of scores of an encoder that has been replaced since."""
    problems: tuple[str, ...]
    """A line for each file that was left out."""

    def title_of(self, stem: str) -> str:
        """Of a score: the loss of its run, else the encoder's name."""
        if self.scores[stem]["features"] == "pixels":
            return "raw-pixel"
        if self.config is None:
            return self.scores[stem].get("title", self.path.name)
        return LOSS_TITLES[self.config.loss.name]


def read_scored(path: Path) -> Scored:
    """Raises UserError for a folder that is neither a run nor holds scores."""
    folder, problems = RunFolder(path), []

    def attempt(read: Callable[[], Content]) -> Content | None:
        try:
            return read()
        except UserError as error:
            problems.append(str(error))
            return None

    scores, incomplete = {}, set()
    for file in _files(path / "eval"):
        score = attempt(partial(read_score, file))
        if score is None:
            continue
        scores[file.stem] = score
        if wrong := figures.check_details(score):
            incomplete.add(file.stem)
            problems.append(f"{file}, all but its headline ({wrong}): another version wrote it, run it again")
    is_run = folder.config.exists()
    if not (is_run or scores or problems):
        raise UserError(f"{folder.config} is missing: {path} is not a run folder, and has no scores in eval/")
    settings = attempt(lambda: read_flat(folder.config)) if is_run else None
    return Scored(
        path,
        settings,
        attempt(lambda: Config.from_flat(settings, folder.config)) if settings is not None else None,
        attempt(folder.read_summary),
        attempt(lambda: read_metrics(folder.metrics)) or [],
        {stem: scores[stem] for stem in sorted(scores, key=_place)},
        frozenset(incomplete),
        frozenset(_stale(folder.encoder, scores)),
        tuple(problems),
    )


def read_score(path: Path) -> dict:
    """The figures of eval/NAME.json. Raises UserError for a file that no evaluation of this version wrote."""
    score = read_json(path, "remove it, or run that evaluation again")
    if wrong := figures.check(score):
        raise UserError(
            f"{path} is not a score that this version's `fastvarcon eval` wrote ({wrong}): remove it, or run that "
            "evaluation again"
        )
    return score


def _files(folder: Path) -> list[Path]:
    try:
        return sorted(folder.glob("*.json"))
    except OSError as error:
        raise UserError(f"{folder} cannot be read ({error.strerror or error}): make it readable") from None


def _place(stem: str) -> tuple:
    name = stem.removesuffix("-pixels")
    return name != stem, ORDER.index(name) if name in ORDER else len(ORDER), stem


def _stale(weights: Path, scores: dict[str, dict]) -> list[str]:
    of_encoder = [stem for stem, score in scores.items() if score["features"] == "encoder"]
    if not of_encoder or not weights.exists():
        return []
    try:
        digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    except OSError as error:
        raise UserError(f"{weights} cannot be read ({error.strerror or error}): make it readable") from None
    return [stem for stem in of_encoder if scores[stem].get("encoder_sha256") != digest]
