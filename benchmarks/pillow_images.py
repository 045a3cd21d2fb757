"""Converts Pillow's own test images and compares what is stored with what Pillow shows.

    pip download --no-deps --no-binary :all: pillow==VERSION && tar xzf pillow-VERSION.tar.gz
    python benchmarks/pillow_images.py pillow-VERSION/Tests/images

Every file is converted in the modes jpg, raw and keep. The reference is made by Pillow and numpy alone: upright, over
white where it is transparent, 16 bits scaled by the depth that the file states. Raw pixels and JPEGs kept as they are
must be the same to the level; a JPEG made here must be as close to the reference as one that Pillow makes at the same
quality. A file is refused as Pillow refuses it, or for one of the REFUSALS. A row per mode goes to --out.
"""

from __future__ import annotations

import argparse
import csv
import datetime
import io
import platform
import shlex
import sys
import time
import warnings
from collections import Counter
from importlib.metadata import version
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from fastvarcon.data.beton import RAW
from fastvarcon.data.decode import FORMATS, ImageError
from fastvarcon.data_prep.encode import EncodeSettings, encode
from fastvarcon.data_prep.record import Record

RESULTS = Path(__file__).parent / "results" / "pillow_images.csv"
PACKAGES = ("fastvarcon", "numpy", "pillow", "simplejpeg")
MODES = ("jpg", "raw", "keep")
REFUSALS = ("32-bit pixels have no defined range", "has negative values", "broken image (Corrupt JPEG data")
"""Why a file that Pillow shows may be refused: see docs/converting.md."""
BITS_PER_SAMPLE, PHOTOMETRIC = 258, 262


def shown(path: Path) -> np.ndarray | None:
    """What Pillow shows: [h, w, 3] uint8. None if it does not open the file as one of FORMATS."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = Image.open(path, formats=FORMATS)
            image.load()
            tags = getattr(image, "tag_v2", {})
            bits, white_is_zero = tags.get(BITS_PER_SAMPLE, (16,))[0], tags.get(PHOTOMETRIC) == 0
            deep = image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PPM")
            image = ImageOps.exif_transpose(image)
            if deep:
                top = 2**bits - 1
                values = np.asarray(image).astype(float)
                grey = np.floor((top - values if white_is_zero else values) / (top + 1) * 256).astype(np.uint8)
                grey[values == image.info.get("transparency")] = 255
                return np.repeat(grey[..., None], 3, axis=2)
            if image.mode in ("I", "F"):
                return np.asarray(image.convert("RGB"))
            if image.has_transparency_data:
                over = Image.new("RGBA", image.size, "white")
                over.alpha_composite(image.convert("RGBA"))
                image = over
            return np.asarray(image.convert("RGB"))
    except Exception:  # Pillow's own tests hold damaged files
        return None


def difference(record: Record, kept: bool, expected: np.ndarray, quality: int) -> str | None:
    """What is wrong with a record; None if nothing is."""
    if (record.height, record.width) != expected.shape[:2]:
        return f"{record.height} x {record.width} pixels where Pillow shows {expected.shape[0]} x {expected.shape[1]}"
    if record.mode == RAW:
        stored = np.frombuffer(record.payload, np.uint8).reshape(expected.shape)
    else:
        stored = np.asarray(Image.open(io.BytesIO(record.payload)).convert("RGB"))
    error = np.abs(stored.astype(int) - expected)
    if record.mode == RAW or kept:
        return f"differs by {error.max()} levels" if error.any() else None
    stream = io.BytesIO()
    Image.fromarray(expected).save(stream, "JPEG", quality=quality, subsampling="4:2:0")
    usual = np.abs(np.asarray(Image.open(stream)).astype(int) - expected)
    return f"mean error {error.mean():.2f}, Pillow's {usual.mean():.2f}" if error.mean() > usual.mean() + 0.5 else None


def compare(folder: Path, mode: str) -> tuple[Counter[str], list[str]]:
    """Counts of what became of the files, and a line for each that is stored otherwise or refused without need."""
    settings, counts, wrong = EncodeSettings(mode, check="decode"), Counter[str](), []
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        expected = shown(path)
        name = str(path.relative_to(folder))
        try:
            record = encode(path, name, settings)
        except ImageError as error:
            counts["refused by both" if expected is None else "refused"] += 1
            if expected is not None:
                print(f"{mode}: refused: {error}")
            if expected is not None and not any(reason in str(error) for reason in REFUSALS):
                wrong.append(f"{mode}: refused: {error}")
            continue
        if expected is None:
            counts["shown here alone"] += 1
            print(f"{mode}: Pillow does not show {name}")
            continue
        fault = difference(record, record.payload == path.read_bytes(), expected, settings.quality)
        counts["otherwise" if fault else "same"] += 1
        wrong += [f"{mode}: {name}: {fault}"] if fault else []
    return counts, wrong


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="Tests/images of Pillow's source package")
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    if not args.folder.is_dir():
        sys.exit(f"error: {args.folder} is not a folder: unpack Pillow's source package and give its Tests/images")
    rows, faults = [], []
    for mode in MODES:
        start = time.perf_counter()
        counts, wrong = compare(args.folder, mode)
        faults += wrong
        rows.append(
            {
                "date": datetime.date.today().isoformat(),
                "mode": mode,
                "files": sum(counts.values()),
                "same": counts["same"],
                "otherwise": counts["otherwise"],
                "refused": counts["refused"],
                "refused_by_both": counts["refused by both"],
                "shown_here_alone": counts["shown here alone"],
                "unexplained": len(wrong) - counts["otherwise"],
                "seconds": round(time.perf_counter() - start, 1),
                "versions": " ".join(f"{name}={version(name)}" for name in PACKAGES)
                + f" python={platform.python_version()}",
                "command": shlex.join(["python", "benchmarks/pillow_images.py", *sys.argv[1:]]),
            }
        )
        print("  ".join(f"{name} {value}" for name, value in rows[-1].items()))
    print("\n".join(faults))
    new = not args.out.exists()
    with open(args.out, "a", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        if new:
            writer.writeheader()
        writer.writerows(rows)
    sys.exit(1 if faults else 0)


if __name__ == "__main__":
    main()
