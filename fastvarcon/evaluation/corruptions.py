"""The fifteen standard corruptions at five severities (Hendrycks & Dietterich 2019), in numpy, scipy and PIL.

Strengths are those of ImageNet-C for views above 64 px and of CIFAR-10-C up to 64 px; lengths in pixels are theirs at
224 and at 32 px and grow with the view. Differences from the published files, which other programs made:

- frost: their photographs of frosted glass are not at hand; the frost here is drawn (cracks between random seeds).
- motion blur, snow: a Gaussian streak of the same radius and sigma, computed here and not by ImageMagick.
- random numbers: every image has its own, a function of (seed, corruption, severity, image).
- as there, images above 64 px are stored as JPEG of quality 85 after the corruption.
"""

from __future__ import annotations

import io
import zlib
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from PIL import Image

from fastvarcon.errors import UserError
from fastvarcon.evaluation.image_filters import blurred, convolved, plasma, streak, zoomed

SMALL_SIDE = 64
"""Views up to this side get the strengths of CIFAR-10-C."""
STORED_QUALITY = 85
Float = np.ndarray
"""[side, side, 3] float64 in [0, 1]."""


class Corruption(NamedTuple):
    make: Callable[..., Float]
    """(pixels, strength, scale, rng) -> pixels; `scale` multiplies lengths in pixels."""
    large: tuple
    """Strength by severity, for 224 px."""
    small: tuple
    """The same for 32 px."""


def corrupt(pixels: np.ndarray, name: str, severity: int, seed: int, sample: int) -> np.ndarray:
    """[side, side, 3] uint8 -> the same, corrupted. A pure function of its arguments.

    Raises:
        UserError: unknown name.
    """
    kind = find(name)
    small = len(pixels) <= SMALL_SIDE
    strength = (kind.small if small else kind.large)[severity - 1]
    rng = np.random.default_rng([seed, zlib.crc32(name.encode()), severity, sample])
    made = kind.make(pixels / 255.0, strength, len(pixels) / (32 if small else 224), rng)
    done = (np.clip(made, 0, 1) * 255).astype(np.uint8)
    return done if small or name == "jpeg_compression" else np.asarray(_jpeg(done, STORED_QUALITY))


def find(name: str) -> Corruption:
    if name not in CORRUPTIONS:
        raise UserError(f"unknown corruption {name!r}: choose from {', '.join(CORRUPTIONS)}")
    return CORRUPTIONS[name]


# ---- noise ---------------------------------------------------------------------------------------------------------


def _gaussian_noise(x: Float, sigma: float, scale: float, rng: np.random.Generator) -> Float:
    return x + rng.normal(0, sigma, x.shape)


def _shot_noise(x: Float, photons: float, scale: float, rng: np.random.Generator) -> Float:
    return rng.poisson(x * photons) / photons


def _impulse_noise(x: Float, share: float, scale: float, rng: np.random.Generator) -> Float:
    """Single channel values turn black or white."""
    hit, white = rng.random(x.shape) < share, rng.random(x.shape) < 0.5
    return np.where(hit, white, x)


# ---- blur ----------------------------------------------------------------------------------------------------------


def _defocus_blur(x: Float, strength: tuple[float, float], scale: float, rng: np.random.Generator) -> Float:
    """A disk of `radius` pixels, whose edge is softened by `alias`."""
    from scipy.ndimage import gaussian_filter

    radius, alias = strength[0] * scale, strength[1]
    reach = int(np.ceil(max(radius, 1))) + 2
    y, x_axis = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    disk = gaussian_filter((y**2 + x_axis**2 <= radius**2).astype(float), alias, truncate=2 / alias)
    return convolved(x, disk / disk.sum())


def _glass_blur(x: Float, strength: tuple[float, int, int], scale: float, rng: np.random.Generator) -> Float:
    """Blur, swap neighbours up to `reach` apart, blur again."""
    sigma, reach, rounds = strength[0] * scale, max(1, round(strength[1] * scale)), strength[2]
    soft, side = blurred(x, sigma), len(x)
    centre = np.arange(reach, side - reach)
    for _ in range(rounds):
        steps = rng.integers(-reach, reach, (len(centre), len(centre), 2), endpoint=True)
        for row in rng.permutation(len(centre)):  # rows in turn: a pixel may travel on
            rows, columns = centre[row] + steps[row, :, 0], centre + steps[row, :, 1]
            soft[centre[row], centre], soft[rows, columns] = soft[rows, columns], soft[centre[row], centre].copy()
    return blurred(soft, sigma)


def _motion_blur(x: Float, strength: tuple[float, float], scale: float, rng: np.random.Generator) -> Float:
    return convolved(x, streak(strength[0] * scale, strength[1] * scale, rng.uniform(-45, 45)))


def _zoom_blur(x: Float, strength: tuple[float, float], scale: float, rng: np.random.Generator) -> Float:
    """Mean of the image and of its enlargements by 1, 1 + step ... up to `most`."""
    most, step = strength
    factors = np.arange(1, most, step)
    return (x + sum(zoomed(x, factor) for factor in factors)) / (len(factors) + 1)


# ---- weather -------------------------------------------------------------------------------------------------------


def _snow(x: Float, strength: tuple, scale: float, rng: np.random.Generator) -> Float:
    """Streaks of bright flakes over a paler image."""
    mean, deviation, zoom, threshold, radius, sigma, kept = strength
    flakes = zoomed(rng.normal(mean, deviation, x.shape[:2])[..., None], zoom)
    flakes = np.clip(np.where(flakes < threshold, 0, flakes), 0, 1)
    flakes = convolved(flakes, streak(radius * scale, sigma * scale, rng.uniform(-135, -45)))
    gray = (x @ np.array([0.299, 0.587, 0.114]))[..., None]
    pale = kept * x + (1 - kept) * np.maximum(x, gray * 1.5 + 0.5)
    return pale + flakes + np.rot90(flakes, 2)


def _frost(x: Float, strength: tuple[float, float], scale: float, rng: np.random.Generator) -> Float:
    image_share, frost_share = strength
    return image_share * x + frost_share * _ice(len(x), scale, rng)[..., None] * np.array([0.86, 0.93, 1.0])


def _ice(side: int, scale: float, rng: np.random.Generator) -> np.ndarray:
    """[side, side] in [0, 1]: crystals that grow from random seeds, bright where they meet and towards the rim."""
    from scipy.spatial import cKDTree

    points = np.moveaxis(np.mgrid[0:side, 0:side], 0, -1).reshape(-1, 2)
    seeds = rng.uniform(0, side, (max(8, round(60 * side / (224 * max(scale, 0.3)))), 2))
    warp = np.stack([plasma(side, 2.0, rng), plasma(side, 2.0, rng)], axis=-1).reshape(-1, 2)
    near, far = cKDTree(seeds).query(points + side / 6 * (warp - 0.5), k=2)[0].T
    cracks = 1 - (far - near) / (far - near).max()
    rim = np.abs(points / side - 0.5).max(axis=1) * 2
    ice = 0.55 * cracks**3 + 0.25 * rim**2 + 0.35 * plasma(side, 1.6, rng).reshape(-1)
    return np.clip(ice, 0, 1).reshape(side, side)


def _fog(x: Float, strength: tuple[float, float], scale: float, rng: np.random.Generator) -> Float:
    amount, decay = strength
    return (x + amount * plasma(len(x), decay, rng)[..., None]) * x.max() / (x.max() + amount)


def _brightness(x: Float, amount: float, scale: float, rng: np.random.Generator) -> Float:
    """Adds to the V of HSV: every channel by the factor that the largest one grows by."""
    value = x.max(axis=2, keepdims=True)
    raised = np.clip(value + amount, 0, 1)
    return np.where(value > 0, x * raised / np.maximum(value, 1e-12), raised)


# ---- digital -------------------------------------------------------------------------------------------------------


def _contrast(x: Float, factor: float, scale: float, rng: np.random.Generator) -> Float:
    means = x.mean(axis=(0, 1), keepdims=True)
    return (x - means) * factor + means


def _elastic_transform(x: Float, strength: tuple[float, float, float], scale: float, rng: np.random.Generator) -> Float:
    """A random affine map, then a smooth random displacement; strengths in units of the side."""
    from scipy.ndimage import gaussian_filter, map_coordinates

    side = len(x)
    reach, sigma, jump = (side * value for value in strength)
    centre, arm = side // 2, side // 3
    before = np.array([[centre + arm, centre + arm], [centre + arm, centre - arm], [centre - arm, centre - arm]], float)
    after = before + rng.uniform(-jump, jump, before.shape)
    affine = np.linalg.solve(np.column_stack([after, np.ones(3)]), before)  # from the new place to the old one
    places = np.stack(np.meshgrid(np.arange(side), np.arange(side), indexing="ij"), axis=-1).astype(float)
    moves = [gaussian_filter(rng.uniform(-1, 1, (side, side)), sigma, truncate=3) * reach for _ in range(2)]
    places += np.stack(moves, axis=-1)
    old = places @ affine[:2] + affine[2]
    return np.stack(
        [map_coordinates(x[..., c], [old[..., 0], old[..., 1]], order=1, mode="mirror") for c in range(3)], axis=-1
    )


def _pixelate(x: Float, factor: float, scale: float, rng: np.random.Generator) -> Float:
    side = len(x)
    image = Image.fromarray((x * 255).round().astype(np.uint8))
    coarse = max(1, int(side * factor))
    small = image.resize((coarse, coarse), Image.Resampling.BOX)
    return np.asarray(small.resize((side, side), Image.Resampling.BOX)) / 255.0


def _jpeg_compression(x: Float, quality: int, scale: float, rng: np.random.Generator) -> Float:
    return np.asarray(_jpeg((x * 255).round().astype(np.uint8), quality)) / 255.0


def _jpeg(pixels: np.ndarray, quality: int) -> Image.Image:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", quality=quality)
    return Image.open(stream).convert("RGB")


CORRUPTIONS = {
    "gaussian_noise": Corruption(_gaussian_noise, (0.08, 0.12, 0.18, 0.26, 0.38), (0.04, 0.06, 0.08, 0.09, 0.10)),
    "shot_noise": Corruption(_shot_noise, (60, 25, 12, 5, 3), (500, 250, 100, 75, 50)),
    "impulse_noise": Corruption(_impulse_noise, (0.03, 0.06, 0.09, 0.17, 0.27), (0.01, 0.02, 0.03, 0.05, 0.07)),
    "defocus_blur": Corruption(
        _defocus_blur,
        ((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5)),
        ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1)),
    ),
    "glass_blur": Corruption(
        _glass_blur,
        ((0.7, 1, 2), (0.9, 2, 1), (1, 2, 3), (1.1, 3, 2), (1.5, 4, 2)),
        ((0.05, 1, 1), (0.25, 1, 1), (0.4, 1, 1), (0.25, 1, 2), (0.4, 1, 2)),
    ),
    "motion_blur": Corruption(
        _motion_blur,
        ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15)),
        ((6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5)),
    ),
    "zoom_blur": Corruption(
        _zoom_blur,
        ((1.11, 0.01), (1.16, 0.01), (1.21, 0.02), (1.26, 0.02), (1.31, 0.03)),
        ((1.06, 0.01), (1.11, 0.01), (1.16, 0.01), (1.21, 0.01), (1.26, 0.01)),
    ),
    "snow": Corruption(
        _snow,
        (
            (0.1, 0.3, 3, 0.5, 10, 4, 0.8),
            (0.2, 0.3, 2, 0.5, 12, 4, 0.7),
            (0.55, 0.3, 4, 0.9, 12, 8, 0.7),
            (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65),
            (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55),
        ),
        (
            (0.1, 0.2, 1, 0.6, 8, 3, 0.95),
            (0.1, 0.2, 1, 0.5, 10, 4, 0.9),
            (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9),
            (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85),
            (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8),
        ),
    ),
    "frost": Corruption(
        _frost,
        ((1, 0.4), (0.8, 0.6), (0.7, 0.7), (0.65, 0.7), (0.6, 0.75)),
        ((1, 0.2), (1, 0.3), (0.9, 0.4), (0.85, 0.4), (0.75, 0.45)),
    ),
    "fog": Corruption(
        _fog,
        ((1.5, 2), (2, 2), (2.5, 1.7), (2.5, 1.5), (3, 1.4)),
        ((0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75)),
    ),
    "brightness": Corruption(_brightness, (0.1, 0.2, 0.3, 0.4, 0.5), (0.05, 0.1, 0.15, 0.2, 0.3)),
    "contrast": Corruption(_contrast, (0.4, 0.3, 0.2, 0.1, 0.05), (0.75, 0.5, 0.4, 0.3, 0.15)),
    "elastic_transform": Corruption(  # theirs are multiples of 244, on 224 pixels
        _elastic_transform,
        tuple(
            tuple(244 / 224 * value for value in strength)
            for strength in ((2, 0.7, 0.1), (2, 0.08, 0.2), (0.05, 0.01, 0.02), (0.07, 0.01, 0.02), (0.12, 0.01, 0.02))
        ),
        ((0, 0, 0.08), (0.05, 0.2, 0.07), (0.08, 0.06, 0.06), (0.1, 0.04, 0.05), (0.1, 0.03, 0.03)),
    ),
    "pixelate": Corruption(_pixelate, (0.6, 0.5, 0.4, 0.3, 0.25), (0.95, 0.9, 0.85, 0.75, 0.65)),
    "jpeg_compression": Corruption(_jpeg_compression, (25, 18, 15, 10, 7), (80, 65, 58, 50, 40)),
}
