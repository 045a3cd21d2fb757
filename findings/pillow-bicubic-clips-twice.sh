#!/usr/bin/env bash
# Pillow 13.0.0, numpy 2.2.6, Python 3.11, Linux x86-64, 2026-11.
#
# Expected: Pillow's bicubic resize is the separable Keys filter (a = -1/2, widened where it shrinks), clipped to 0..255
# at the end. Whoever resizes floats and clips at the end then has the images that timm's networks are evaluated with.
#
# Seen: it rounds and clips to 8 bits after the horizontal pass as well. The float result, unclipped, is up to 30 levels
# away from Pillow's at edges; clipped at the end alone, still about 10 at corners of black and white squares and more in
# noise. Clipped after each pass, rows first, the difference is that of the two roundings: at most 1.13 levels, half a
# level times the largest sum of |weights| (1.25) plus half a level. torchvision's antialiased resize of float tensors
# does not clip at all.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m pip install --quiet --root-user-action ignore --target "$work/lib" "pillow==13.0.0" "numpy==2.2.6"
PYTHONPATH="$work/lib" python3 - <<'PYTHON'
import numpy as np
from PIL import Image

def weights(inputs, outputs):
    scale = max(inputs / outputs, 1)
    centre = (np.arange(outputs)[:, None] + 0.5) * inputs / outputs
    t = np.abs(np.arange(inputs)[None] + 0.5 - centre) / scale
    near, far = (1.5 * t - 2.5) * t * t + 1, ((-0.5 * t + 2.5) * t - 4) * t + 2
    w = np.where(t < 1, near, np.where(t < 2, far, 0))
    return w / w.sum(1, keepdims=True)

def apart(pixels, size, clip_between, clip_end):
    rows, columns = weights(pixels.shape[0], size), weights(pixels.shape[1], size)
    wide = pixels @ columns.T
    ours = rows @ (wide.clip(0, 255) if clip_between else wide)
    theirs = np.asarray(Image.fromarray(pixels).resize((size, size), Image.BICUBIC)).astype(float)
    return np.abs((ours.clip(0, 255) if clip_end else ours) - theirs).max()

squares = (255 * (np.add.outer(np.arange(320) // 16, np.arange(320) // 16) % 2)).astype(np.uint8)
noise = np.random.default_rng(0).integers(0, 256, (300, 300), dtype=np.uint8)
for pixels in (squares, noise):
    free, end, both = (apart(pixels, 256, *clips) for clips in ((False, False), (False, True), (True, True)))
    print(f"unclipped {free:.1f} levels, clipped at the end {end:.1f}, after each pass {both:.2f}")
    assert free > 15 and end > 5 and both <= 1.13
PYTHON
