"""Citations in code, tests and pages lead somewhere: to a heading of a page, or to a paper of docs/maths/papers.md.

A page is cited by its path, with the anchor of a heading where one is meant: `docs/losses.md#varcon`. A paper is cited
by its number on arXiv.
"""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("fastvarcon", "kernels", "data_prep", "recipes", "benchmarks", "tests", "docs")
KINDS = (".py", ".md", ".toml", ".cff", ".sh", ".sbatch")
FILES = sorted(
    path
    for folder in (ROOT, *(ROOT / name for name in FOLDERS))
    for path in (folder.glob("*") if folder == ROOT else folder.rglob("*"))
    if path.suffix in KINDS and path != Path(__file__)
)
PAGES = [path for path in FILES if path.suffix == ".md"]

PAGE = re.compile(r"(?<![\w/.-])(?<!\]\()((?:[\w-]+/)+[\w-]+\.md)(?:#([\w-]+))?")
LINK = re.compile(r"\]\((?!\w+:)([^)#\s]*)(?:#([^)\s]+))?\)")
PAPER = re.compile(r"arxiv(?:\.org/\w+/|[\s:]+)\(?(\d[\w./-]*)", re.I)
NUMBER = re.compile(r"\d\d(0[1-9]|1[0-2])\.\d{5}(v\d+)?")
ELSEWHERE = re.compile(r"\bspecs?/\w|\bspecs? \d|\bspec's\b|\bthe specs?\b", re.I)
"""A document that only the authors of the code could read."""
FENCED = re.compile(r"^```.*?^```$", re.M | re.S)


def found(pattern: re.Pattern[str], path: Path) -> Iterator[tuple[str, re.Match[str]]]:
    """(where, match) in a file."""
    text = path.read_text(encoding="utf-8")
    for match in pattern.finditer(text):
        yield f"{path.relative_to(ROOT)}:{text.count(chr(10), 0, match.start()) + 1}", match


@functools.cache
def anchors(page: Path) -> frozenset[str]:
    """Those that mkdocs gives the headings of a page; so does GitHub, for headings of plain words."""
    text = FENCED.sub("", page.read_text(encoding="utf-8"))
    names: list[str] = []
    for title in re.findall(r"^#+ (.+)$", text, re.M):
        plain = unicodedata.normalize("NFKD", title).encode("ascii", "ignore").decode()
        names.append(re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", plain).strip().lower()))
    return frozenset(
        name if n == names.index(name) else f"{name}_{names[:n].count(name)}" for n, name in enumerate(names)
    )


def missing(page: Path, anchor: str | None) -> bool:
    return not page.exists() or (anchor is not None and anchor not in anchors(page))


def test_anchors_are_those_of_mkdocs(tmp_path):
    slugify = pytest.importorskip("markdown.extensions.toc", reason="mkdocs is not installed").slugify
    titles = ["Gradient scale", "clustering, embed", "`x` is 0: do y", "Étude  – two", "cross_entropy"]
    page = tmp_path / "page.md"
    page.write_text("\n".join(f"## {title}" for title in [*titles, titles[0]]), encoding="utf-8")
    assert anchors(page) == {*(slugify(title.replace("`", ""), "-") for title in titles), "gradient-scale_1"}


def test_cited_pages_and_their_headings_exist():
    cited = [(where, match) for path in FILES for where, match in found(PAGE, path)]
    assert len(cited) > 40
    assert [(where, match[0]) for where, match in cited if missing(ROOT / match[1], match[2])] == []


def test_links_between_pages_and_their_headings_exist():
    links = [(path, where, match) for path in PAGES for where, match in found(LINK, path)]
    assert len(links) > 80
    lost = [
        (where, match[0])
        for path, where, match in links
        if missing(path.parent / match[1] if match[1] else path, match[2])
    ]
    assert lost == []


def test_papers_are_cited_by_numbers_that_the_list_has():
    """docs/maths/papers.md: a row for each paper, with its title."""
    listed = set(re.findall(r"^\| ([\d.]+) \|", (ROOT / "docs/maths/papers.md").read_text(encoding="utf-8"), re.M))
    cited = [(where, match[1].rstrip(".,/")) for path in FILES for where, match in found(PAPER, path)]
    assert len(cited) > 20 and len(listed) > 15 and all(NUMBER.fullmatch(number) for number in listed)
    assert [(where, number) for where, number in cited if not NUMBER.fullmatch(number)] == []
    assert [(where, number) for where, number in cited if number.split("v")[0] not in listed] == []


def test_nothing_is_cited_that_the_repository_lacks():
    assert [(where, match[0]) for path in FILES for where, match in found(ELSEWHERE, path)] == []


@pytest.mark.parametrize(
    "text", ["spec/varcon.md 6.1", "(spec 4.6)", "the spec's 10", "Spec 2:", "the figures of the spec."]
)
def test_such_citations_are_seen(text):
    assert ELSEWHERE.search(text)
