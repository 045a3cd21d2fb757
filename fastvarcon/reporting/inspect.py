"""A .beton file in words."""

from __future__ import annotations

import numpy as np

from fastvarcon.data.beton import MODE_NAMES, UNLABELLED, Beton

CLASSES_SHOWN = 10


def describe_beton(beton: Beton) -> str:
    """Several lines: samples, stored forms, sizes, classes, and how the file was made."""
    megabytes = beton.path.stat().st_size / 1e6
    lines = [f"{beton.path}: {len(beton):,} images, {len(beton.classes):,} classes, {megabytes:,.1f} MB"]
    forms = [
        f"{int((beton.modes == mode).sum()):,} {name}"
        for mode, name in MODE_NAMES.items()
        if (beton.modes == mode).any()
    ]
    lines.append(f"  stored as   {', '.join(forms)}; {beton.sizes.mean():,.0f} bytes an image on average")
    for name, values in (("width", beton.widths), ("height", beton.heights)):
        low, middle, high = np.percentile(values, [0, 50, 100], method="nearest")
        lines.append(f"  {name:<11} {low} to {high} pixels, median {middle}")
    settings = [f"{key} {value}" for key, value in beton.extra.items() if key != "classes" and value is not None]
    maker = f"fastvarcon convert: {', '.join(settings)}" if beton.extra else "ffcv, which keeps no class names"
    lines.append(f"  made by     {maker}")
    unlabelled = int((beton.labels == UNLABELLED).sum())
    if unlabelled:
        lines.append(f"  unlabelled  {unlabelled:,} images")
    counts = np.bincount(beton.labels[beton.labels >= 0], minlength=len(beton.classes))
    for index, name in enumerate(beton.classes[:CLASSES_SHOWN]):
        lines.append(f"  class {index:<5} {name}: {counts[index]:,} images")
    if len(beton.classes) > CLASSES_SHOWN:
        lines.append(
            f"  ... and {len(beton.classes) - CLASSES_SHOWN:,} more, {counts.min():,} to {counts.max():,} images each"
        )
    return "\n".join(lines)
