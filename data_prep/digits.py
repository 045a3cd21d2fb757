"""The 1,797 scanned 8x8 digits that ship inside scikit-learn, as an image folder: the demo's data, no download needed.

    python -m fastvarcon.data_prep.digits OUT      writes OUT/train/DIGIT/*.png and OUT/val/DIGIT/*.png

Every fifth image is held out. Source: E. Alpaydin, C. Kaynak, Optical Recognition of Handwritten Digits, UCI (1998).
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

HELD_OUT_EVERY = 5


def write_digits(out: Path) -> tuple[int, int]:
    """Write both folders; returns the number of training and held-out images."""
    digits = load_digits()
    counts = [0, 0]
    for index, (image, label) in enumerate(zip(digits.images, digits.target, strict=True)):
        held_out = index % HELD_OUT_EVERY == 0
        folder = out / ("val" if held_out else "train") / str(label)
        folder.mkdir(parents=True, exist_ok=True)
        pixels = np.round(image * (255 / 16)).astype(np.uint8)  # stored with 17 grey levels, 0 to 16
        Image.fromarray(pixels).save(folder / f"{index:04d}.png")
        counts[held_out] += 1
    return counts[0], counts[1]


if __name__ == "__main__":
    if len(sys.argv) != 2:
        print(__doc__.split("\n\n")[1].strip(), file=sys.stderr)
        raise SystemExit(2)
    print("{} training and {} held-out digits in {}".format(*write_digits(Path(sys.argv[1])), sys.argv[1]))
