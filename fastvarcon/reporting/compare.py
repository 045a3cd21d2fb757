"""`fastvarcon eval compare`: runs side by side, with significance over training seeds.

Runs whose settings differ in the seed alone are one group. Two groups are compared by Welch's t-test; where each run of
one has a run of the same seed in the other, by the paired t-test. Both are two-sided and need two runs in each group.
Nothing is corrected for the number of comparisons. The spread of a probe over its own seeds says nothing about
training: it is shown, and not tested.
"""

from __future__ import annotations

import itertools
import statistics
from pathlib import Path

import rich.markup
from rich.table import Table

from fastvarcon.errors import UserError
from fastvarcon.json_file import write_json
from fastvarcon.reporting import charts, page
from fastvarcon.reporting.page import shown
from fastvarcon.reporting.scored import Scored
from fastvarcon.reporting.tables import between, interval_of, percent
from fastvarcon.reporting.titles import kind_of
from fastvarcon.terminal import add_row
from fastvarcon.visible import visible

SEED = "train.seed"
SAME = 1e-9
"""Scores that are nearer than this are the same: nothing to test against."""
CAPTION = "mean ± standard deviation over training seeds [95 % interval over held-out images]"
NOT_COMPARED = frozenset(("out", SEED, "data.workers", "data.prefetch", "data.prefetch_mb", "train.threads"))


def compare(runs: list[Scored], command: str) -> dict:
    """Scores of each group, and tests between each two. Raises UserError for a folder without scores."""
    groups: dict[tuple, dict] = {}
    for run in runs:
        found = {stem: score for stem, score in run.scores.items() if "top1" in score}
        if not found:
            raise UserError(f"{run.path} has no scores: run `fastvarcon eval linear {run.path}` first")
        if old := [stem for stem in found if stem in run.stale]:
            raise UserError(f"{run.path}: {old[0]} is of an earlier encoder: run eval again")
        settings = {"out": str(run.path)} if run.config is None else run.config.flat()
        key = tuple(sorted((k, str(v)) for k, v in settings.items() if k not in NOT_COMPARED)) or (str(run.path),)
        group = groups.setdefault(key, {"name": run.title_of(next(iter(found))), "runs": [], "seeds": [], "by_run": []})
        group["runs"].append(str(run.path))
        group["seeds"].append(settings.get(SEED))
        group["by_run"].append({stem: score["top1"] for stem, score in found.items()})
        group.setdefault("settings", settings)
        group.setdefault("images", {stem: score.get("num_val", 0) for stem, score in found.items()})
    made = list(groups.values())
    _name_apart(made)
    shared = [stem for stem in made[0]["by_run"][0] if all(stem in one for g in made for one in g["by_run"])]
    if not shared:
        raise UserError("the runs have no score in common: run the same evaluations on each")
    for group in made:
        group["scores"] = {stem: figures([one[stem] for one in group["by_run"]]) for stem in shared}
        for stem, found in group["scores"].items():
            found["interval"] = interval_of(stem, {"top1": found["mean"], "num_val": group["images"][stem]})
    tests = [test(one, other, stem) for stem in shared for one, other in itertools.combinations(made, 2)]
    for group in made:
        del group["settings"], group["images"]
    return {"groups": made, "scores": shared, "tests": tests, "command": command}


def _name_apart(groups: list[dict]) -> None:
    """A group is named by its loss and by the settings in which it differs from the others."""
    keys = sorted({key for group in groups for key in group["settings"]} - NOT_COMPARED)
    differ = [key for key in keys if len({str(group["settings"].get(key)) for group in groups}) > 1]
    for group in groups:
        shown = [f"{key.split('.')[-1]} {group['settings'].get(key)}" for key in differ if key != "loss.name"]
        group["name"] = ", ".join([group["name"], *shown[:3]])
    names = [group["name"] for group in groups]
    for group in groups:
        if names.count(group["name"]) > 1:
            group["name"] += f" ({Path(group['runs'][0]).name})"


def figures(values: list[float]) -> dict:
    """Mean, sample standard deviation (None for a single value) and number."""
    std = statistics.stdev(values) if len(values) > 1 else None
    return {"mean": statistics.mean(values), "std": std, "n": len(values), "by_run": values}


def test(one: dict, other: dict, stem: str) -> dict:
    """Difference of two groups in one score, with the test that fits."""
    from scipy import stats

    a, b = (dict(zip(group["seeds"], (run[stem] for run in group["by_run"]), strict=True)) for group in (one, other))
    values = [[run[stem] for run in group["by_run"]] for group in (one, other)]
    row = {
        "score": stem,
        "groups": [one["name"], other["name"]],
        "difference": statistics.mean(values[0]) - statistics.mean(values[1]),
        "test": None,
        "p": None,
    }
    if min(map(len, values)) < 2:
        return row | {"why_not": "one run in a group: no spread over training seeds"}
    paired = a.keys() == b.keys() and None not in a and len(a) == len(values[0]) == len(values[1])
    seeds = sorted(a) if paired else []
    spread = [[a[seed] - b[seed] for seed in seeds]] if paired else values
    if max(max(one) - min(one) for one in spread) < SAME:
        return row | {"why_not": "no spread over the seeds"}
    if paired:
        found = stats.ttest_rel([a[seed] for seed in seeds], [b[seed] for seed in seeds])
    else:
        found = stats.ttest_ind(*values, equal_var=False)
    return row | {"test": "paired t, same seeds" if paired else "Welch t", "p": float(found.pvalue)}


def compare_table(result: dict) -> Table:
    table = Table(
        "runs", "n", *(rich.markup.escape(visible(_kind(stem))) for stem in result["scores"]), caption=CAPTION
    )
    for group in result["groups"]:
        add_row(table, group["name"], str(len(group["runs"])), *(_cell(group, stem) for stem in result["scores"]))
    return table


def _kind(stem: str) -> str:
    return kind_of(stem) + (", pixels" if stem.endswith("-pixels") else "")


def _cell(group: dict, stem: str) -> str:
    found = group["scores"][stem]
    return percent(found["mean"], found["std"]) + (f" [{between(found['interval'])}]" if found["interval"] else "")


def write_page(result: dict, path: Path) -> None:
    """The page, and its figures as .json beside it."""
    write_json(path.with_suffix(".json"), result)
    rows = [
        (group["name"], str(len(group["runs"])), *(_cell(group, stem) for stem in result["scores"]))
        for group in result["groups"]
    ]
    drawn = [
        page.picture(_kind(stem), charts.compared(result["groups"], stem), f"{_kind(stem)} of each group of runs")
        for stem in result["scores"]
    ]
    tests = [
        (
            _kind(row["score"]),
            " against ".join(row["groups"]),
            row["why_not"] if row["p"] is None else f"p = {row['p']:.3g} ({row['test']})",
            f"{100 * row['difference']:+.2f}",
        )
        for row in result["tests"]
    ]
    body = (
        "<h2>Top-1, mean ± standard deviation over training seeds [95 % interval over held-out images]</h2>"
        + page.table(("runs", "n", *map(_kind, result["scores"])), rows)
        + page.pictures(drawn)
        + "<h2>Differences</h2>"
        + page.table(("score", "of", "significance", "points"), tests, text_columns=3)
        + "<p>Two-sided tests over runs of different training seeds, not corrected for their number: paired where the "
        "groups have the same seeds, else Welch's.</p><h2>Runs</h2>"
        + page.table(
            ("group", "folders", "seeds"),
            [(g["name"], ", ".join(g["runs"]), ", ".join(map(str, g["seeds"]))) for g in result["groups"]],
            text_columns=3,
        )
        + f"<p><code>{shown(result['command'])}</code></p>"
    )
    page.write_page(path, page.page("Runs compared", body))
