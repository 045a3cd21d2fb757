"""The parts of a self-contained HTML page: no network, pictures inline, readable on a phone."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape
from pathlib import Path

from fastvarcon.visible import visible
from fastvarcon.whole_file import ANOTHER, write_text

CSS = """
body{font:16px/1.5 system-ui,sans-serif;color:#1c1c1c;background:#fff;max-width:60rem;margin:0 auto;padding:1rem}
h1{font-size:1.5rem;margin:.5rem 0;overflow-wrap:anywhere}
h2{font-size:1.15rem;margin:2rem 0 .5rem;border-bottom:1px solid #ddd}
.scroll{overflow-x:auto}table{border-collapse:collapse;width:100%}
th,td{text-align:left;padding:.35rem .8rem .35rem 0;border-bottom:1px solid #eee;vertical-align:top}
td{overflow-wrap:break-word}tr.score td{border-bottom:0;font-weight:600;padding-bottom:0}
.number{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
code{font-size:.85em;overflow-wrap:anywhere;color:#444}.source{margin:.3rem 0;color:#444}
.curves{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,26rem),1fr));gap:1rem}
@media(max-width:32rem){body{padding:.6rem}th,td{padding-right:.45rem;font-size:.9rem}}
figure{margin:0}figcaption{font-weight:600}img{width:100%;height:auto}details{margin:1rem 0}
"""


def page(title: str, body: str) -> str:
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{shown(title)}</title>'
        f'<meta name="viewport" content="width=device-width,initial-scale=1"><link rel="icon" href="data:,">'
        f"<style>{CSS}</style></head><body><h1>{shown(title)}</h1>{body}</body></html>\n"
    )


def shown(text: str) -> str:
    """Any text as it stands on a page: no tags, and nothing that steers."""
    return escape(visible(text))


def write_page(path: Path, content: str, remedy: str = ANOTHER) -> None:
    """Whole or not at all. Raises NotWritten with the remedy."""
    write_text(path, content, remedy)


def picture(title: str, svg: str, description: str) -> str:
    """An SVG with its caption; `description` is for those who cannot see it."""
    return (
        f'<figure><figcaption>{shown(title)}</figcaption><img alt="{shown(description)}" '
        f'src="data:image/svg+xml;base64,{base64.b64encode(svg.encode()).decode()}"></figure>'
    )


def pictures(figures: Sequence[str]) -> str:
    return f'<div class="curves">{"".join(figures)}</div>'


def table(header: Sequence[str], rows: Sequence[Sequence[str]], text_columns: int = 1) -> str:
    """The first columns hold text, the others numbers. A wide table scrolls in itself, never the page."""

    def line(tag: str, cells: Sequence[str]) -> str:
        return "".join(
            f"<{tag}{'' if column < text_columns else ' class=number'}>{shown(cell)}</{tag}>"
            for column, cell in enumerate(cells)
        )

    head = f"<tr>{line('th', header)}</tr>" if header else ""
    body = "".join(f"<tr>{line('td', row)}</tr>" for row in rows)
    return f'<div class="scroll"><table>{head}{body}</table></div>'


def source(result: dict) -> str:
    """Which command the numbers of a section come from, and how they were made."""
    return (
        f'<p class="source">{shown(str(result.get("protocol", "")))}. Seed {result["seed"]}, '
        f"{result['seconds']:,.1f} s.<br><code>{shown(result['command'])}</code></p>"
    )
