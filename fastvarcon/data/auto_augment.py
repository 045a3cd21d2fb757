"""AutoAugment and RandAugment as lists of pairs: a view takes one of them at random and both its steps in turn.

Steps are torchvision's, by its names, with its magnitudes; kernels/operations.py says what they do.
Sources: Cubuk et al. 2019 (AutoAugment, table 9: found on ImageNet) and Cubuk et al. 2020 (RandAugment).
"""

from __future__ import annotations

import itertools
from functools import cache

import numpy as np

from fastvarcon.kernels.operations import OPERATIONS

Step = tuple[str, float, float]
"""Operation, probability, strength: 0 = the weakest that the papers search, 1 = the strongest."""
Pair = tuple[Step, Step]

SIGNED = {"Brightness", "Contrast", "Color", "Sharpness", "ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate"}
"""Either way with the same probability."""


def _bin(name: str, probability: float, tenth: int = 0) -> Step:
    """AutoAugment counts ten magnitudes, 0 to 9."""
    return name, probability, tenth / 9


AUTO_AUGMENT: tuple[Pair, ...] = (
    (_bin("Posterize", 0.4, 8), _bin("Rotate", 0.6, 9)),
    (_bin("Solarize", 0.6, 5), _bin("AutoContrast", 0.6)),
    (_bin("Equalize", 0.8), _bin("Equalize", 0.6)),
    (_bin("Posterize", 0.6, 7), _bin("Posterize", 0.6, 6)),
    (_bin("Equalize", 0.4), _bin("Solarize", 0.2, 4)),
    (_bin("Equalize", 0.4), _bin("Rotate", 0.8, 8)),
    (_bin("Solarize", 0.6, 3), _bin("Equalize", 0.6)),
    (_bin("Posterize", 0.8, 5), _bin("Equalize", 1.0)),
    (_bin("Rotate", 0.2, 3), _bin("Solarize", 0.6, 8)),
    (_bin("Equalize", 0.6), _bin("Posterize", 0.4, 6)),
    (_bin("Rotate", 0.8, 8), _bin("Color", 0.4, 0)),
    (_bin("Rotate", 0.4, 9), _bin("Equalize", 0.6)),
    (_bin("Equalize", 0.0), _bin("Equalize", 0.8)),
    (_bin("Invert", 0.6), _bin("Equalize", 1.0)),
    (_bin("Color", 0.6, 4), _bin("Contrast", 1.0, 8)),
    (_bin("Rotate", 0.8, 8), _bin("Color", 1.0, 2)),
    (_bin("Color", 0.8, 8), _bin("Solarize", 0.8, 7)),
    (_bin("Sharpness", 0.4, 7), _bin("Invert", 0.6)),
    (_bin("ShearX", 0.6, 5), _bin("Equalize", 1.0)),
    (_bin("Color", 0.4, 0), _bin("Equalize", 0.6)),
    (_bin("Equalize", 0.4), _bin("Solarize", 0.2, 4)),
    (_bin("Solarize", 0.6, 5), _bin("AutoContrast", 0.6)),
    (_bin("Invert", 0.6), _bin("Equalize", 1.0)),
    (_bin("Color", 0.6, 4), _bin("Contrast", 1.0, 8)),
    (_bin("Equalize", 0.8), _bin("Equalize", 0.6)),
)

_RAND = tuple((name, 1.0, 9 / 30) for name in OPERATIONS if name != "Invert")
RAND_AUGMENT: tuple[Pair, ...] = tuple(itertools.product(_RAND, _RAND))
"""torchvision's RandAugment() with its defaults: two of 14 operations, magnitude 9 of 0 to 30."""


def magnitude(name: str, strength: float, sign: int) -> float:
    """What kernels/operations.py calls the magnitude."""
    if name in ("Brightness", "Contrast", "Color", "Sharpness"):
        return 1 + sign * 0.9 * strength
    if name == "Posterize":
        return 2.0 ** round(8 - 4 * strength)
    widest = {"Solarize": -1.0, "ShearX": 0.3, "ShearY": 0.3, "TranslateX": 150 / 331, "TranslateY": 150 / 331}
    widest |= {"Rotate": 30.0}
    return (name == "Solarize") + sign * strength * widest.get(name, 0.0)


@cache
def as_arrays(pairs: tuple[Pair, ...]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Numbers of the operations [n, 2] uint8, probabilities [n, 2], magnitudes [n, 2, 2] with sign + and - last."""
    ops = [[OPERATIONS.index(name) for name, _, _ in pair] for pair in pairs]
    probabilities = [[probability for _, probability, _ in pair] for pair in pairs]
    magnitudes = [
        [[magnitude(name, strength, sign if name in SIGNED else 1) for sign in (1, -1)] for name, _, strength in pair]
        for pair in pairs
    ]
    shape = (len(pairs), 2)
    return (
        np.array(ops, dtype=np.uint8).reshape(shape),
        np.array(probabilities, dtype=np.float64).reshape(shape),
        np.array(magnitudes, dtype=np.float64).reshape(*shape, 2),
    )
