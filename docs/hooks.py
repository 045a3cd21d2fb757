"""What mkdocs.yml cannot say: pages and charts of the site that lie beside docs/, where GitHub shows them too."""

from __future__ import annotations

from pathlib import Path

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
PAGES = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
CHARTS = "benchmarks/results/"


def on_files(files: Files, config) -> Files:
    for name, uri in PAGES.items():
        files.append(File.generated(config, uri, content=(ROOT / name).read_text(encoding="utf-8")))
    for chart in sorted((ROOT / CHARTS).glob("*.png")):
        files.append(File.generated(config, CHARTS + chart.name, abs_src_path=str(chart)))
    return files


def on_page_markdown(markdown: str, **_) -> str:
    """Links as they are in the checkout become those of the site, where all pages lie side by side."""
    markdown = markdown.replace("](docs/", "](").replace("](../", "](")
    for name, uri in PAGES.items():
        markdown = markdown.replace(f"]({name})", f"]({uri})")
    return markdown
