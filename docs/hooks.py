"""What mkdocs.yml cannot say: pages and charts of the site that lie beside docs/, where GitHub shows them too."""

from __future__ import annotations

import posixpath
import re
from pathlib import Path

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
PAGES = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
CHARTS = "benchmarks/results/"
LINK = re.compile(r"\]\((?!\w+:)([^)#\s]+)")


def on_files(files: Files, config) -> Files:
    for name, uri in PAGES.items():
        files.append(File.generated(config, uri, content=(ROOT / name).read_text(encoding="utf-8")))
    for chart in sorted((ROOT / CHARTS).glob("*.png")):
        files.append(File.generated(config, CHARTS + chart.name, abs_src_path=str(chart)))
    return files


def on_page_markdown(markdown: str, page, **_) -> str:
    """Links of the checkout become those of the site, where the pages of PAGES and the charts are at the root."""
    uri = page.file.src_uri
    place = "" if uri in PAGES.values() else posixpath.join("docs", posixpath.dirname(uri))

    def moved(link: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(place, link[1]))
        target = PAGES.get(target, target.removeprefix("docs/"))
        return f"]({posixpath.relpath(target, posixpath.dirname(uri) or '.')}"

    return LINK.sub(moved, markdown)
