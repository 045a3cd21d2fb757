"""report.html: one self-contained page about a run, or about a folder of scores. Readable on a phone, no network."""

from __future__ import annotations

from html import escape
from pathlib import Path

from fastvarcon.config import Config
from fastvarcon.errors import UserError
from fastvarcon.progress import format_seconds
from fastvarcon.reporting.page import page, picture, pictures, write_page
from fastvarcon.reporting.plots import training_curves
from fastvarcon.reporting.sections import section
from fastvarcon.reporting.tables import LOSS_TITLES, percent, results, score_rows, stale
from fastvarcon.run_folder import RunFolder, read_metrics


def write_report(run: Path) -> Path:
    """Write RUN/report.html and return its path. Raises UserError if `run` has neither metrics nor scores."""
    found = results(run)
    body = _scores(run) + "".join(section(stem, result, stale(run, result)) for stem, result in found.items())
    title = f"Scores of {next(iter(found.values()))['title']}" if found else run.name
    if (run / "config.json").exists() or not found:
        config = Config.load(run / "config.json")
        title = f"{LOSS_TITLES.get(config.loss.name, config.loss.name)}, {config.model.encoder}: {run.name}"
        body += _run(RunFolder(run), config, needed=not found)
    path = run / "report.html"
    write_page(path, page(title, body))
    return path


def _run(folder: RunFolder, config: Config, needed: bool) -> str:
    rows = read_metrics(folder.metrics)
    if not any(row["kind"] == "step" for row in rows):
        if needed:
            raise UserError(f"{folder.path} has no training metrics yet: let it run for --train.log-every steps")
        return _settings(config)
    return _training(folder.read_summary(), rows) + _curves(rows, config) + _settings(config)


def _scores(run: Path) -> str:
    rows = "".join(
        f'<tr class="score"><td>{escape(row.what)}</td><td class="number">{percent(row.top1, row.spread)}</td>'
        f'<td class="number">{"" if row.top5 is None else f"{row.top5:.2%}"}</td>'
        f'<td class="number">{row.num_val:,}</td></tr>'
        f'<tr><td colspan="4">{escape(row.protocol)}<br><code>{escape(row.command)}</code></td></tr>'
        for row in score_rows(run)
    )
    if not rows:
        return f"<h2>Scores</h2><p>None yet: <code>fastvarcon eval linear {escape(str(run))}</code></p>"
    return (
        '<h2>Scores on held-out images</h2><div class="scroll"><table><tr><th>score</th><th class="number">top-1</th>'
        f'<th class="number">top-5</th><th class="number">images</th></tr>{rows}</table></div>'
    )


def _training(summary: dict | None, rows: list[dict]) -> str:
    if summary is None:
        return f"<h2>Training</h2><p>Not finished; {rows[-1]['step']:,} steps so far.</p>"
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
    body = "".join(f"<tr><td>{escape(name)}</td><td>{escape(value)}</td></tr>" for name, value in facts)
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
        f"<tr><td><code>--{escape(key)}</code></td><td>{escape(str(value))}</td></tr>"
        for key, value in config.flat().items()
    )
    return f'<details><summary>All settings</summary><div class="scroll"><table>{body}</table></div></details>'
