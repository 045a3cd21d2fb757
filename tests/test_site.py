"""The pages build as a site: no broken link, no page left out, nothing loaded from the network."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

pytest.importorskip("mkdocs", reason="mkdocs-material is not installed: pip install 'fastvarcon[docs]'")


@pytest.fixture(scope="module")
def site(run_python, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("site")
    done = run_python("-m", "mkdocs", "build", "--strict", "--site-dir", out, NO_MKDOCS_2_WARNING="1")
    assert done.returncode == 0, done.stdout + done.stderr
    return out


def test_every_page_and_chart_is_there(site):
    docs = ROOT / "docs"
    pages = {path.relative_to(docs).with_suffix(".html") for path in docs.rglob("*.md")}
    made = {path.relative_to(site) for path in site.rglob("*.html")}
    assert {Path("index.html"), Path("contributing.html"), *pages} <= made
    for picture in re.findall(r'<img [^>]*src="([^"]+)"', (site / "speed.html").read_text()):
        assert (site / picture).read_bytes().startswith(b"\x89PNG")


def test_readme_is_the_first_page_with_its_tables(site):
    text = (site / "index.html").read_text()
    assert 'href="losses.html"' in text and "README.md" not in text
    assert text.count("<table>") >= 4 and "table:loader" not in re.sub(r"<!--.*?-->", "", text)


def test_nothing_is_loaded_from_the_network(site):
    for page in site.rglob("*.html"):
        assert not re.search(r'(<script|<link|<img)[^>]+(src|href)="(https?:)?//', page.read_text()), page
