"""What a study is, and which runs it takes: series x points x seeds of settings over those of a recipe."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from fastvarcon.config import Config
from fastvarcon.errors import UserError


@dataclass(frozen=True)
class Point:
    """One setting of what is studied."""

    name: str
    """In the table, the legend and the names of the run folders."""
    settings: Mapping[str, object] = field(default_factory=dict)
    """Values by keys of config.json, as {"loss.tau1": 0.05}."""
    times: Mapping[str, float] = field(default_factory=dict)
    """Factors of the recipe's own values, so that a grid fits every recipe: {"train.epochs": 0.5}."""


@dataclass(frozen=True)
class Axis:
    """A number on the x axis of the figure."""

    key: str
    """Of config.json."""
    label: str
    """With its unit."""
    log: bool = False


@dataclass(frozen=True)
class Study:
    name: str
    points: tuple[Point, ...]
    series: tuple[Point, ...] = (Point("VarCon"),)
    """Lines of the figure: each takes all points."""
    axis: Axis | None = None
    """None: the points are categories."""
    shots: tuple[int, ...] = ()
    """Labelled images a class of the few-shot evaluation, which is then what the figure shows; none: linear and kNN."""

    @property
    def evaluations(self) -> dict[str, list[str]]:
        """Names of `fastvarcon eval`, with their flags."""
        few_shot = {"few-shot": ["--shots", *map(str, self.shots)]} if self.shots else {}
        return {"linear": [], "knn": [], **few_shot}


@dataclass(frozen=True)
class Cell:
    """One run of a study."""

    series: str
    point: str
    settings: dict[str, object]
    """What this cell sets over the recipe and the flags, seed and folder aside."""
    config: Config

    @property
    def name(self) -> str:
        return self.config.out.name

    @property
    def seed(self) -> int:
        return self.config.train.seed


def cells(study: Study, base: Config, seeds: int, only: tuple[str, ...] = ()) -> list[Cell]:
    """The runs of a study over `base`, whose `out` is the folder of the study; every point once, then the next seed.

    Args:
        seeds: runs of each point, with seeds from that of `base` on.
        only: names of points or series; empty = all.

    Raises:
        UserError: a name that is none, or settings that no run could work with.
    """
    names = {point.name for point in (*study.points, *study.series)}
    unknown = [name for name in only if name not in names]
    if unknown:
        raise UserError(f"--only {unknown[0]!r} is no point of {study.name}: choose from {', '.join(sorted(names))}")
    found = []
    for seed in range(base.train.seed, base.train.seed + seeds):
        for series in _chosen(study.series, only):
            for point in _chosen(study.points, only):
                settings = _settings(base, series) | _settings(base, point)
                parts = [series.name, point.name] if len(study.series) > 1 else [point.name]
                out = base.out / f"{'-'.join(map(_slug, parts))}-seed{seed}"
                config = _changed(base, {**settings, "train.seed": seed, "out": out})
                try:
                    config.validate()
                except UserError as error:
                    raise UserError(f"{study.name}, {out.name}: {error}") from None
                found.append(Cell(series.name, point.name, settings, config))
    return found


def varied(study: Study) -> set[str]:
    """Keys that every run of the study sets by itself."""
    by_series = set.intersection(*(set(one.settings) for one in study.series))
    return by_series | set.intersection(*(set(one.settings) for one in study.points))


def _chosen(points: tuple[Point, ...], only: tuple[str, ...]) -> tuple[Point, ...]:
    """Those that `only` names; all where it names none of them."""
    return tuple(point for point in points if point.name in only) or points


def _settings(base: Config, point: Point) -> dict[str, object]:
    flat: dict[str, Any] = base.flat()
    scaled = {}
    for key, factor in point.times.items():
        value = flat[key] * factor
        scaled[key] = max(1, round(value)) if isinstance(flat[key], int) else value
    return {**point.settings, **scaled}


def _changed(config: Config, values: Mapping[str, object]) -> Config:
    """The configuration with other values at some keys."""
    groups: dict[str, dict[str, object]] = {}
    for key, value in values.items():
        group, _, name = key.rpartition(".")
        groups.setdefault(group, {})[name] = value
    top: dict[str, Any] = groups.pop("", {})
    parts: dict[str, Any] = {group: dataclasses.replace(getattr(config, group), **new) for group, new in groups.items()}
    return dataclasses.replace(config, **top, **parts)


def _slug(name: str) -> str:
    return re.sub(r"[^\w.]+", "-", name.lower()).strip("-")
