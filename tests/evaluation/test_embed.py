"""Maps of the embedding: who is near in the features is near on paper, by scikit-learn's measure."""

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.manifold import trustworthiness

from fastvarcon.evaluation import embed
from fastvarcon.evaluation.options import Embed


@pytest.fixture(scope="module")
def unit():
    pixels = load_digits().data[:300]
    return (pixels / np.linalg.norm(pixels, axis=1, keepdims=True)).astype(np.float32)


@pytest.mark.filterwarnings("error::UserWarning")  # users would see it too
@pytest.mark.parametrize("method", ["tsne", "umap"])
def test_neighbours_stay_neighbours(unit, method):
    if method == "umap":
        pytest.importorskip("umap")
    draw = {"tsne": embed._tsne, "umap": embed._umap_places}[method]
    first, again = (draw(unit, Embed("unused", seed=3)) for _ in range(2))
    assert first.shape == (300, 2) and (first == again).all(), "the seed decides"
    assert trustworthiness(unit, np.array(embed.to_grid(first)), n_neighbors=10) > 0.95


def test_grid_keeps_proportions():
    assert embed.to_grid(np.array([[-1.0, 2.0], [1.0, 3.0], [0.0, 2.0]])) == [[0, 0], [1000, 500], [500, 0]]
    assert embed.to_grid(np.zeros((2, 2))) == [[0, 0], [0, 0]]
