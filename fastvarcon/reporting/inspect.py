"""A converted dataset in words."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from fastvarcon.data.beton import MODE_NAMES, UNLABELLED
from fastvarcon.data.records import Records
from fastvarcon.visible import visible

CLASSES_SHOWN = 10
NOT_SETTINGS = ("classes", "hashes", "num_samples")  # of `extra`: tables, shown otherwise


def describe(records: Records, path: Path) -> str:
    """Several lines, whatever its texts hold: samples, stored forms, sizes, classes, and how the files were made."""
    megabytes = records.sizes.sum() / 1e6
    lines = [f"{path}: {len(records):,} images, {len(records.classes):,} classes, {megabytes:,.1f} MB of images"]
    forms = [
        f"{int((records.modes == mode).sum()):,} {name}"
        for mode, name in MODE_NAMES.items()
        if (records.modes == mode).any()
    ]
    lines.append(f"  stored as   {', '.join(forms)}; {records.sizes.mean():,.0f} bytes an image on average")
    for name, values in (("width", records.widths), ("height", records.heights)):
        low, middle, high = np.percentile(values, [0, 50, 100], method="nearest")
        lines.append(f"  {name:<11} {low} to {high} pixels, median {middle}")
    settings = [
        f"{key} {value}" for key, value in records.extra.items() if key not in NOT_SETTINGS and value is not None
    ]
    maker = f"fastvarcon convert: {', '.join(settings)}" if records.extra else "ffcv, which keeps no class names"
    lines.append(f"  made by     {maker}")
    lines.append(f"  hashes      {'none' if records.hashes is None else 'one a record, see `fastvarcon verify`'}")
    unlabelled = int((records.labels == UNLABELLED).sum())
    if unlabelled:
        lines.append(f"  unlabelled  {unlabelled:,} images")
    counts = np.bincount(records.labels[records.labels >= 0], minlength=len(records.classes))
    for index, name in enumerate(records.classes[:CLASSES_SHOWN]):
        lines.append(f"  class {index:<5} {name}: {counts[index]:,} images")
    if len(records.classes) > CLASSES_SHOWN:
        lines.append(
            f"  ... and {len(records.classes) - CLASSES_SHOWN:,} more, {counts.min():,} to {counts.max():,} images each"
        )
    return "\n".join(map(visible, lines))
