"""`fastvarcon eval geometry` and `alignment` on the digits, from the command to the page."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from fastvarcon.evaluation.alignment import weight_gap

VIEWS = ("--data.size", "8", "--data.eval-resize", "8")


@pytest.fixture
def pair(digits):
    return ("--data.train", digits[0], "--data.val", digits[1], *VIEWS)


def result(out, name: str) -> dict:
    return json.loads((out / "eval" / f"{name}.json").read_text())


def test_geometry(fastvarcon, encoder_file, pair, tmp_path):
    said = fastvarcon(
        "eval", "geometry", encoder_file, *pair, "--shots", "1", "10", "5000", "--draws", "1", "--out", tmp_path
    )
    found = result(tmp_path, "geometry")
    assert found["cdnv_ordered"] == pytest.approx(found["cdnv_half_symmetric"])
    assert found["cdnv_unhalved"] == pytest.approx(2 * found["cdnv_ordered"])
    assert 0 < found["directional_cdnv"] < found["cdnv_ordered"] < found["cdnv_debiased"]
    assert found["unit_total_variance"] == pytest.approx(found["unit_within_variance"] + found["unit_between_variance"])
    assert 1 <= found["effective_rank"] <= 32 and found["uniformity"] < 0
    assert found["view_alignment"] == pytest.approx(2 * found["view_collapse"], rel=1e-6)
    assert 0 < found["augmentation_to_class_variance"] < 1
    one, ten = found["few_shot"]
    assert one["shots"] == 1 and "bound_first" not in one and ten["nearest_mean_error"] < one["nearest_mean_error"]
    assert all(ten[f"bound_{name}"] >= ten["nearest_mean_error"] for name in ("first", "camera_ready", "pairwise"))
    assert "[5000] shots are more than" in found["protocol"] and "use the debiased CDNV" in found["protocol"]
    assert "directional_cdnv" in said and "10 shots: nearest mean" in said
    assert "Geometry of classes and views" in (tmp_path / "report.html").read_text()


def test_alignment(fastvarcon, encoder_file, pair, tmp_path):
    state = load_file(encoder_file)
    generator = torch.Generator().manual_seed(1)
    moved = {
        name: t + 0.05 * torch.randn(t.shape, generator=generator) if name.endswith("conv1.weight") else t
        for name, t in state.items()
    }
    other = tmp_path / "other.safetensors"
    save_file(moved, other)
    fastvarcon("eval", "alignment", encoder_file, encoder_file, *pair, "--out", tmp_path)
    same = result(tmp_path, "alignment")
    assert same["weight_gap"] == 0
    assert all(same[name] == pytest.approx(1, abs=1e-6) for name in ("cka", "cka_unbiased", "rsa", "rsa_spearman"))
    said = fastvarcon("eval", "alignment", encoder_file, other, *pair, "--images", "50", "--out", tmp_path)
    found = result(tmp_path, "alignment")
    assert found["weight_gap"] == pytest.approx(weight_gap(state, moved)) and found["against"] == "other"
    assert all(found[name] < 0.9999 for name in ("cka", "rsa", "rsa_spearman")) and "weight_gap" in said


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("geometry", "nowhere", "--shots", "0"), "--shots are numbers"),
        (("geometry", "nowhere", "--draws", "0"), "--draws must be at least 1"),
        (("geometry", "nowhere", "--features", "pixels"), "geometry needs an encoder"),
        (("alignment", "nowhere", "elsewhere"), "nowhere"),
        (("alignment", "nowhere", "elsewhere", "--images", "3"), "--images must be at least 4"),
    ],
)
def test_mistakes(fastvarcon, flags, message):
    assert message in fastvarcon("eval", *flags, code=2)
