"""The pages in a real browser: rendered, no console error, no network, nothing wider than a phone."""

import html
import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fastvarcon.reporting.html import write_report

PHONE = 360  # pixels
BASE = {"features": "encoder", "title": "tiny", "encoder_sha256": "0", "seed": 0, "seconds": 1.0, "num_val": 4}
CURVE = {"epochs": [1, 2], "top1": [0.5, 0.6], "top5": 0.9}
ROWS = [
    {"encoder": "tiny", "method": m, "shots": s, "mean": 0.5, "half_width": 0.1, "by_draw": [0.4, 0.6]}
    for m in ("nearest class mean", "logistic regression")
    for s in (1, 2, 5, 10, 20, 50, 100)
]
AGREEMENT = dict.fromkeys(("ari", "nmi", "v_measure", "homogeneity", "completeness", "purity"), 0.5)
RESULTS = {
    "linear": {
        "top1": 0.6, "top1_std": 0.01, "top1_by_seed": [0.6, 0.6], "top5": 0.9, "lr": 1.0, "decay": 0.0,
        "best_epoch_top1_test_selected": 0.6, "curve": [CURVE, CURVE],
    },
    "knn": {
        "top1": 0.5, "k": 20, "top1_by_k": {"1": 0.5, "20": 0.5}, "weighted_top1_by_k": {"1": 0.5, "20": 0.5},
        "temperature": 0.07, "nearest_class_mean_top1": 0.5,
    },
    "few-shot": {"rows": ROWS, "differences": ROWS, "shots": [1, 2, 5, 10, 20, 50, 100]},
    "transfer": {
        "top1": 0.5,
        "rows": [
            {
                "val": "a/long/path/to/another/data-set-val.beton", "logistic_top1": 0.5, "logistic_class_mean": 0.5,
                "strength": 1.0, "fine_tuned_top1": 0.6, "num_train": 100_000, "num_val": 10_000,
            }
        ],
    },
    "corruption": {
        "top1": 0.5, "clean_top1": 0.8, "mean_error": 0.5, "relative_mean_error": 0.3, "mce": 0.9, "relative_mce": 1.1,
        "errors": {name: dict(zip("12345", (0.1, 0.2, 0.3, 0.4, 0.5), strict=True)) for name in ("snow", "glass_blur")},
    },
    "clustering": {
        **AGREEMENT, "class_tree": [[0, 1, 1.0, 2], [2, 3, 2.0, 3]], "class_names": ["ant", "bee", "<script>cat"],
        "superclasses": {**AGREEMENT, "cophenetic_correlation": 0.5},
    },
    "embed": {
        "maps": [{"checkpoint": "encoder", "method": "t-SNE", "places": [[0, 0], [1000, 0], [0, 1000], [9, 9]]}],
        "labels": [0, 1, 2, 0], "classes": ["ant", "bee", "</script><b>cat"], "grid": 1000, "thumbnails": None,
        "thumbnail_columns": 2, "thumbnail_side": 32,
    },
    "calibration": {
        "top1": 0.5, "ece": 0.1, "mce": 0.2, "nll": 1.0, "brier": 0.5,
        "bins": [{"from": 0.0, "to": 1.0, "count": 4, "confidence": 0.6, "accuracy": 0.5}],
    },
    "geometry": {"cdnv": 0.25},
}  # fmt: skip


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Path:
    """A report with every section, and one that has no drawing of its own."""
    run = tmp_path_factory.mktemp("scores")
    (run / "eval").mkdir()
    for name, figures in RESULTS.items():
        command = f"fastvarcon eval {name} tiny --data.train a/very/long/path/without/any/space/in/it/at/all.beton"
        score = {**BASE, "name": name, "protocol": f"how {name} is done", "command": command, **figures}
        (run / "eval" / f"{name}.json").write_text(json.dumps(score))
    return write_report(run)


def test_every_number_has_its_command_and_nothing_comes_from_elsewhere(page):
    text = page.read_text()
    for name in RESULTS:
        section = re.search(rf'<section id="{name}">.*?</section>', text, re.S)
        assert section and f"fastvarcon eval {name} tiny" in section[0] and f"how {name} is done" in section[0]
    assert "cdnv" in text and "0.25" in text
    assert not re.search(r'(src|href)="(?!data:)', text) and "http" not in text and "</script><b>" not in text
    assert '<meta name="viewport" content="width=device-width,initial-scale=1">' in text


@pytest.fixture(scope="module")
def browse(tmp_path_factory):
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if program is None:
        pytest.skip("no Chromium is installed")
    home = tmp_path_factory.mktemp("browser")

    def run(*args: str) -> subprocess.CompletedProcess[str]:
        flags = ("--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--enable-logging=stderr", "--v=0")
        command = [program, *flags, f"--user-data-dir={home}", *args]
        return subprocess.run(command, capture_output=True, text=True, timeout=600, check=True)

    return run


def test_browser_draws_the_page_without_a_complaint(page, browse, tmp_path):
    picture = tmp_path / "page.png"
    done = browse("--window-size=1000,4000", f"--screenshot={picture}", page.as_uri())
    assert "CONSOLE" not in done.stderr, done.stderr
    pixels = np.asarray(Image.open(picture).convert("L"))
    assert pixels.shape == (4000, 1000)
    drawn = (pixels < 128).any(axis=1)
    assert drawn[:1000].mean() > 0.2 and drawn[2000:4000].mean() > 0.2, "the page is empty"


def test_page_fits_a_phone_and_the_map_answers(page, browse, tmp_path):
    """In a frame as wide as a phone: how wide the page is, and what a finger on the map brings up."""
    probe = """
      <script>frame.onload = function () {
        var page = frame.contentDocument, svg = page.querySelector('.map svg'), box = svg.getBoundingClientRect();
        var touch = {clientX: box.left + 0.02 * box.width, clientY: box.top + 0.02 * box.height};
        svg.dispatchEvent(new frame.contentWindow.PointerEvent('pointerdown', touch));
        var tip = page.querySelector('.tip');
        document.title = page.documentElement.scrollWidth + ' ' + getComputedStyle(tip).display + ' ' + tip.textContent;
      };</script>"""
    frame = (
        f'<iframe id="frame" width="{PHONE}" height="800" style="border:0" srcdoc="{html.escape(page.read_text())}">'
    )
    (tmp_path / "phone.html").write_text(f"<!doctype html><title>none</title>{frame}</iframe>{probe}")
    done = browse("--dump-dom", "--virtual-time-budget=5000", (tmp_path / "phone.html").as_uri())
    assert "CONSOLE" not in done.stderr, done.stderr
    assert re.search(r"<title>(.*?)</title>", done.stdout)[1] == f"{PHONE} block ant"
