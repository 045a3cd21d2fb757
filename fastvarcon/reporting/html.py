"""report.html: one self-contained page about a run. No script, no network, readable on a phone."""

from __future__ import annotations

import base64
from html import escape
from pathlib import Path

from fastvarcon.config import Config
from fastvarcon.errors import UserError
from fastvarcon.progress import format_seconds
from fastvarcon.reporting.plots import training_curves
from fastvarcon.reporting.tables import LOSS_TITLES, score_rows
from fastvarcon.run_folder import RunFolder, read_metrics

CSS = """
body{font:16px/1.5 system-ui,sans-serif;color:#1c1c1c;background:#fff;max-width:60rem;margin:0 auto;padding:1rem}
h1{font-size:1.5rem;margin:.5rem 0}h2{font-size:1.15rem;margin:2rem 0 .5rem;border-bottom:1px solid #ddd}
.scroll{overflow-x:auto}table{border-collapse:collapse;width:100%}
th,td{text-align:left;padding:.35rem .8rem .35rem 0;border-bottom:1px solid #eee;vertical-align:top}
tr.score td{border-bottom:0;font-weight:600;padding-bottom:0}
.number{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
code{font-size:.85em;overflow-wrap:anywhere;color:#444}
.curves{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,26rem),1fr));gap:1rem}
figure{margin:0}figcaption{font-weight:600}img{width:100%;height:auto}details{margin:1rem 0}
"""


def write_report(run: Path) -> Path:
    """Write RUN/report.html and return its path. Raises UserError if `run` is no run folder or has no metrics yet."""
    folder = RunFolder(run)
    config = Config.load(folder.config)
    rows = read_metrics(folder.metrics)
    if not any(row["kind"] == "step" for row in rows):
        raise UserError(f"{run} has no training metrics yet: let it run for --train.log-every steps")
    summary = folder.read_summary()
    title = f"{LOSS_TITLES[config.loss.name]}, {config.model.encoder}: {run.name}"
    page = (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width,initial-scale=1"><link rel="icon" href="data:,">'
        f"<style>{CSS}</style></head><body><h1>{escape(title)}</h1>"
        f"{_scores(run)}{_training(summary, rows)}{_curves(rows, config)}{_settings(config)}</body></html>\n"
    )
    path = run / "report.html"
    aside = path.with_name(path.name + ".partial")
    aside.write_text(page, encoding="utf-8")
    aside.replace(path)
    return path


def _scores(run: Path) -> str:
    rows = "".join(
        f'<tr class="score"><td>{escape(row.what)}</td><td class="number">{row.top1:.2%}</td>'
        f'<td class="number">{"" if row.top5 is None else f"{row.top5:.2%}"}</td>'
        f'<td class="number">{row.num_val:,}</td></tr>'
        f'<tr><td colspan="4">{escape(row.protocol)}<br><code>{escape(row.command)}</code></td></tr>'
        for row in score_rows(run)
    )
    if not rows:
        return f"<h2>Scores</h2><p>None yet: <code>fastvarcon eval linear {escape(str(run))}</code></p>"
    return (
        '<h2>Scores on held-out images</h2><table><tr><th>score</th><th class="number">top-1</th>'
        f'<th class="number">top-5</th><th class="number">images</th></tr>{rows}</table>'
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
    pictures = "".join(
        f'<figure><figcaption>{escape(title)}</figcaption><img alt="{escape(title)}" '
        f'src="data:image/svg+xml;base64,{base64.b64encode(svg.encode()).decode()}"></figure>'
        for title, svg in training_curves(rows, config).items()
    )
    return (
        f'<h2>Curves</h2><div class="curves">{pictures}</div><p>Confidence and nearest-centroid accuracy are measured '
        "within the batch, where every row is part of its own centroid: they are high even for random features and do "
        "not measure learning. The held-out kNN does.</p>"
    )


def _settings(config: Config) -> str:
    body = "".join(
        f"<tr><td><code>--{escape(key)}</code></td><td>{escape(str(value))}</td></tr>"
        for key, value in config.flat().items()
    )
    return f'<details><summary>All settings</summary><div class="scroll"><table>{body}</table></div></details>'
