"""What the corruptions are made of: blurs, streaks, enlargements and clouds, on float arrays [side, side, channels]."""

from __future__ import annotations

import numpy as np


def blurred(x: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussian, over the two sides alone."""
    from scipy.ndimage import gaussian_filter

    return gaussian_filter(x, (sigma, sigma, 0), mode="nearest")


def convolved(x: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """Every channel with `kernel` of odd sides, mirrored at the border."""
    from scipy.signal import fftconvolve

    reach = len(kernel) // 2
    padded = np.pad(x, ((reach, reach), (reach, reach), (0, 0)), mode="symmetric")
    return fftconvolve(padded, kernel[..., None], mode="valid", axes=(0, 1))


def streak(radius: float, sigma: float, degrees: float) -> np.ndarray:
    """A line from the centre to one side, fading like a Gaussian: what a moving lens smears."""
    reach = max(1, int(np.ceil(radius)))
    kernel = np.zeros((2 * reach + 1, 2 * reach + 1))
    for distance in np.arange(0, radius + 1e-9, 0.5):
        y = reach + distance * np.sin(np.radians(degrees))
        x = reach + distance * np.cos(np.radians(degrees))
        kernel[round(y), round(x)] += np.exp(-(distance**2) / (2 * sigma**2))
    return kernel / kernel.sum()


def zoomed(x: np.ndarray, factor: float) -> np.ndarray:
    """The centre of [side, side, channels], enlarged."""
    from scipy.ndimage import zoom

    side = len(x)
    inner = int(np.ceil(side / factor))
    top = (side - inner) // 2
    large = zoom(x[top : top + inner, top : top + inner], (factor, factor, 1), order=1)
    cut = (len(large) - side) // 2
    return large[cut : cut + side, cut : cut + side]


def plasma(side: int, decay: float, rng: np.random.Generator) -> np.ndarray:
    """[side, side] in [0, 1]: midpoint displacement, whose steps shrink by `decay` at each halving."""
    from scipy.ndimage import zoom

    total, amplitude, cells = np.zeros((side, side)), 1.0, 1
    while cells < side:
        cells *= 2
        grid = rng.uniform(-1, 1, (cells + 1, cells + 1))
        total += amplitude * zoom(grid, (side + 1) / (cells + 1), order=1, grid_mode=True, mode="nearest")[:side, :side]
        amplitude /= decay
    total -= total.min()
    return total / total.max()
