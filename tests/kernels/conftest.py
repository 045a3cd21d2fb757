"""Fixtures: kernels compiled for a GPU that is not there, photographs, torchvision's version of a view."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import resources
import torch
import torchvision.transforms.v2 as v2
import torchvision.transforms.v2.functional as tv

from fastvarcon.data.augment import ViewTable, view_params
from fastvarcon.data.batch import ImageBatch
from fastvarcon.kernels import reference
from fastvarcon.kernels.operations import OPERATIONS


@pytest.fixture(scope="session")
def compile_kernels():
    """`compile_kernels({capability: {launches: kernels}})`: what aot.py prints of them.

    Where they do not take what is on record for this Triton, a warning in pytest's summary says so.
    """
    triton = pytest.importorskip("triton", reason="triton is not on this system")
    try:
        tools = [triton.knobs.nvidia.ptxas.path, triton.knobs.nvidia.cuobjdump.path]
    except RuntimeError as error:
        pytest.skip(str(error))
    assert all(map(os.path.exists, tools))

    def compile_launches(wanted: dict[int, dict[str, list[str] | None]]) -> list[dict]:
        command = [sys.executable, str(Path(__file__).with_name("aot.py")), json.dumps(wanted)]
        environ = {**os.environ, "TRITON_INTERPRET": "0"}
        done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        made = json.loads(done.stdout)
        if line := resources.deviations(made["kernels"], made["triton"], resources.recorded()):
            warnings.warn(line, stacklevel=1)
        return made["kernels"]

    return compile_launches


@pytest.fixture(scope="session")
def photos() -> ImageBatch:
    """Twelve pieces of two photographs that come with scikit-learn, in sizes from 60 to 400 pixels; two are square."""
    pil = pytest.importorskip("PIL.Image")
    folder = Path(pytest.importorskip("sklearn.datasets").__file__).parent / "images"
    rng = np.random.default_rng(0)
    pieces = []
    for name in ("china.jpg", "flower.jpg"):
        photo = np.asarray(pil.open(folder / name).convert("RGB"))
        sizes = [(64, 64), *rng.integers(60, 400, (5, 2)).tolist()]
        for height, width in sizes:
            y, x = (
                int(rng.integers(0, whole - part)) for whole, part in zip(photo.shape, (height, width), strict=False)
            )
            pieces.append(photo[y : y + height, x : x + width])
    return ImageBatch.from_images(pieces, np.zeros(len(pieces), np.int64), np.arange(len(pieces)))


@pytest.fixture(scope="session")
def full_image_table():
    """`full_image_table(batch, **columns)`: a table that shows whole images and changes nothing but `columns`."""

    def table(batch: ImageBatch, **columns: torch.Tensor) -> ViewTable:
        height, width, none = batch.height.float(), batch.width.float(), torch.zeros(len(batch))
        sizes = {"heights": batch.height.numpy(), "widths": batch.width.numpy()}
        made = view_params("crop", 0, 0, np.arange(len(batch)), 0, **sizes)
        return dataclasses.replace(made, **{"box": torch.stack([none, none, height, width], 1), **columns})

    return table


@pytest.fixture(scope="session")
def torchvision_view():
    """`torchvision_view(image, table, row, size)`: what torchvision v2 makes of a row, in float32.

    `nudge` is added to the resized pixels: results that it changes hang on the rounding of the resize.
    """
    automatic = v2.RandAugment(interpolation=tv.InterpolationMode.BILINEAR)

    def operate(x, name: str, magnitude: float, size: int):
        units = {
            "Posterize": np.log2(max(magnitude, 1)),
            "TranslateX": magnitude * size,
            "TranslateY": magnitude * size,
        }
        units |= dict.fromkeys(("Brightness", "Contrast", "Color", "Sharpness"), magnitude - 1)
        magnitude = float(units.get(name, magnitude))
        return automatic._apply_image_or_video_transform(x, name, magnitude, automatic.interpolation, automatic._fill)

    def view(image, table, row: int, size: int, interpolation: str = "bilinear", nudge: float = 0.0) -> torch.Tensor:
        x = image.permute(2, 0, 1).float() / 255
        filters = tv.InterpolationMode(interpolation)
        x = tv.resized_crop(x, *(int(v) for v in table.box[row]), [size, size], interpolation=filters, antialias=True)
        x = x + nudge
        if table.flip[row]:
            x = tv.horizontal_flip(x)
        steps = (
            (tv.adjust_brightness, table.brightness[row], 1.0),
            (tv.adjust_contrast, table.contrast[row], 1.0),
            (tv.adjust_saturation, table.saturation[row], 1.0),
            (tv.adjust_hue, table.hue[row], 0.0),
        )
        for op in table.order[row].tolist():
            adjust, factor, neutral = steps[op]
            if factor != neutral:
                x = adjust(x, float(factor))
        for op, magnitude in zip(table.ops[row].tolist(), table.magnitudes[row].tolist(), strict=True):
            x = operate(x, OPERATIONS[op], magnitude, size)
        if table.gray[row]:
            x = tv.rgb_to_grayscale(x, 3)
        if table.blur_sigma[row] > 0:
            x = tv.gaussian_blur(x, [reference.blur_taps(size)] * 2, [float(table.blur_sigma[row])] * 2)
        return tv.solarize(x, float(table.solarize[row])) if table.solarize[row] <= 1 else x

    return view
