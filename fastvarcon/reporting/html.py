"""report.html: one self-contained page about a run, or about a folder of scores. Readable on a phone, no network."""

from __future__ import annotations

from pathlib import Path

from fastvarcon.config import Config
from fastvarcon.errors import UserError
from fastvarcon.progress import format_seconds
from fastvarcon.reporting.page import page, picture, pictures, shown, write_page
from fastvarcon.reporting.plots import training_curves
from fastvarcon.reporting.scored import Scored, read_scored
from fastvarcon.reporting.sections import section
from fastvarcon.reporting.tables import between, percent, score_rows
from fastvarcon.reporting.titles import LOSS_TITLES
from fastvarcon.run_folder import RunFolder

REMEDY = "give another place with `fastvarcon report RUN --out PAGE.html`"


def write_report(run: Path, out: Path | None = None) -> Path:
    """Write the page about a run, RUN/report.html unless `out` is given, and return its path.

    Raises:
        UserError: `run` has neither metrics nor scores; NotWritten: the page cannot be written.
    """
    if out is not None:
        write_page(out, report(read_scored(run)))
        return out
    if not ((run / "config.json").exists() or (run / "eval").is_dir()):
        read_scored(run)  # which refuses it, before it gets a lock
    path = run / "report.html"
    with RunFolder(run).writing_scores(path, REMEDY):  # the later of two reports has read what both evaluations wrote
        write_page(path, report(read_scored(run)), REMEDY)
    return path


def report(scored: Scored) -> str:
    """The page. Raises UserError for a run that has neither metrics nor scores."""
    title = f"Scores of {next(iter(scored.scores.values())).get('title', scored.path.name)}" if scored.scores else ""
    body = _problems(scored) + _scores(scored)
    complete = {stem: score for stem, score in scored.scores.items() if stem not in scored.incomplete}
    body += "".join(section(stem, score, stem in scored.stale) for stem, score in complete.items())
    if scored.config is not None:
        loss = LOSS_TITLES[scored.config.loss.name]
        title = f"{loss}, {scored.config.model.encoder}: {scored.path.name}"
        body += _run(scored, scored.config)
    elif not scored.scores:
        raise UserError(scored.problems[0])
    return page(title, body)


def _run(scored: Scored, config: Config) -> str:
    if not any(row["kind"] == "step" for row in scored.metrics):
        if not (scored.scores or scored.problems):
            raise UserError(f"{scored.path} has no training metrics yet: let it run for --train.log-every steps")
        return _settings(config)
    return _training(scored) + _curves(scored.metrics, config) + _settings(config)


def _problems(scored: Scored) -> str:
    return "".join(f"<p><b>Left out: {shown(problem)}.</b></p>" for problem in scored.problems)


def _scores(scored: Scored) -> str:
    rows = "".join(
        f'<tr class="score"><td>{shown(row.what)}</td><td class="number">{percent(row.top1, row.spread)}</td>'
        f'<td class="number">{between(row.interval)}</td>'
        f'<td class="number">{"" if row.top5 is None else f"{row.top5:.2%}"}</td>'
        f'<td class="number">{row.num_val:,}</td></tr>'
        f'<tr><td colspan="5">{shown(row.protocol)}<br><code>{shown(row.command)}</code></td></tr>'
        for row in score_rows(scored)
    )
    if not rows:
        return f"<h2>Scores</h2><p>None yet: <code>fastvarcon eval linear {shown(str(scored.path))}</code></p>"
    return (
        '<h2>Scores on held-out images</h2><div class="scroll"><table><tr><th>score</th><th class="number">top-1</th>'
        '<th class="number">95 % interval</th><th class="number">top-5</th><th class="number">images</th></tr>'
        f"{rows}</table></div>"
    )


def _training(scored: Scored) -> str:
    summary = scored.summary
    if summary is None:
        return f"<h2>Training</h2><p>Not finished; {scored.metrics[-1]['step']:,} steps so far.</p>"
    facts = [
        ("loss, mean of the last epoch", f"{summary['final_loss']:.4f}"),
        ("epochs", f"{summary['epochs']:,}"),
        ("time spent training", format_seconds(summary["seconds"])),
        ("speed", f"{summary['views_per_second']:,.0f} views/s"),
        ("waiting for data", f"{summary['data_wait_fraction']:.1%} of the time"),
        ("hardware", f"{summary['world_size']} process(es) on {summary['device_name']}"),
        ("data backend", summary["backend"]),
        ("versions", ", ".join(f"{name} {version}" for name, version in summary["versions"].items())),
        ("command", summary["command"]),
    ]
    body = "".join(f"<tr><td>{shown(name)}</td><td>{shown(value)}</td></tr>" for name, value in facts)
    return f'<h2>Training</h2><div class="scroll"><table>{body}</table></div>'


def _curves(rows: list[dict], config: Config) -> str:
    curves = [picture(title, svg, title) for title, svg in training_curves(rows, config).items()]
    return (
        f"<h2>Curves</h2>{pictures(curves)}<p>Confidence and nearest-centroid accuracy are measured "
        "within the batch, where every row is part of its own centroid: they are high even for random features and do "
        "not measure learning. The held-out kNN does.</p>"
    )


def _settings(config: Config) -> str:
    body = "".join(
        f"<tr><td><code>--{shown(key)}</code></td><td>{shown(str(value))}</td></tr>"
        for key, value in config.flat().items()
    )
    return f'<details><summary>All settings</summary><div class="scroll"><table>{body}</table></div></details>'
