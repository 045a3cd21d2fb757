"""A contact sheet: images of a dataset, each beside the two views that training makes of it."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from fastvarcon import kernels
from fastvarcon.config import DataConfig
from fastvarcon.data.augment import NO_SOLARIZE, ViewTable, view_table
from fastvarcon.data.backends import Backend
from fastvarcon.errors import UserError
from fastvarcon.kernels.operations import OPERATIONS
from fastvarcon.reporting.drawing import fonts
from fastvarcon.visible import visible

VIEWS = 2
CELL = 192, 256  # least and largest side of a shown picture, pixels
GAP, MARGIN, LINE = 6, 28, 19
INK, FAINT, PAPER = "#1c1c1c", "#808080", "#ffffff"
COLOURS = "#1f5fbf", "#d9730d"
"""Of view 1 and view 2, and of their frames in the original."""


def contact_sheet(images: Backend, title: str, *, count: int, policy: str, size: int | None, seed: int) -> Image.Image:
    """Views of `count` images of different classes, as a training of this seed makes them in its first epoch.

    Args:
        title: names the dataset.
        size: side of a view in pixels; None = 224, or for images less than half of that, the median of their sides.

    Raises:
        UserError: not as many images; an unknown policy; ImageError: one cannot be decoded.
    """
    if count > len(images):
        raise UserError(f"{title} holds {len(images):,} images: --views can show as many at most")
    ids = choose(images.labels, count, seed)
    batch = images.fetch(ids)
    heights, widths = batch.height.numpy(), batch.width.numpy()
    side = int(np.median(np.minimum(heights, widths)))
    size = size or (DataConfig.size if 2 * side >= DataConfig.size else side)
    resize = round(size * DataConfig.eval_resize / DataConfig.size)
    table = view_table(policy, seed, 0, ids, VIEWS, heights=heights, widths=widths, resize=resize, size=size)
    made = kernels.views(batch, table, size=size, mean=DataConfig.mean, std=DataConfig.std)
    views = _pixels(made).reshape(VIEWS, count, size, size, 3)

    names = [images.classes[label] if label >= 0 else "unlabelled" for label in images.labels[ids]]
    factor = max(1, -(-CELL[0] // size))
    cell = min(size * factor, CELL[1])
    block = VIEWS * (cell + GAP) + cell, 2 * LINE + cell
    columns = max(1, round((count / 2) ** 0.5))
    rows = -(-count // columns)
    width, height = (MARGIN + n * (side + MARGIN) for n, side in zip((columns, rows), block, strict=True))
    sheet = Image.new("RGB", (width, height + MARGIN), PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text(
        (MARGIN, MARGIN // 2),
        f"{visible(title)}: policy {policy}, views of {size} px, seed {seed}",
        INK,
        _font(15, True),
    )
    for i in range(count):
        left = MARGIN + i % columns * (block[0] + MARGIN)
        top = 2 * MARGIN + i // columns * (block[1] + MARGIN)
        place = f"image {ids[i]}, {widths[i]} x {heights[i]}"
        _caption(draw, left, top, block[0], names[i], place)
        boxes = table.box[i::count].tolist()
        _paste(sheet, _framed(batch.image(i).numpy(), boxes, cell), left, top + LINE, cell)
        for view in range(VIEWS):
            left += cell + GAP
            _paste(sheet, _fit(views[view, i], cell), left, top + LINE, cell)
            base = top + LINE + cell
            draw.rectangle((left, base, left + cell - 1, base + 2), COLOURS[view])
            deeds = _deeds(table, view * count + i, heights[i] * widths[i])
            draw.text((left, base + 5), _shortened(deeds, _font(11), cell), FAINT, _font(11))
    return sheet


def choose(labels: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Ids [count] of random images of different classes, as long as there are other classes; sorted by class."""
    rng = np.random.default_rng(seed)
    shuffled = rng.permutation(len(labels))
    order = shuffled[np.argsort(labels[shuffled], kind="stable")]
    _, first, members = np.unique(labels[order], return_index=True, return_counts=True)
    turn = np.arange(len(labels)) - np.repeat(first, members)  # the how-manieth of its class
    chosen = order[np.lexsort((rng.random(len(labels)), turn))[:count]]
    return chosen[np.lexsort((chosen, labels[chosen]))]


def _pixels(made: Tensor) -> np.ndarray:
    """Normalised views -> uint8 [n, size, size, 3]."""
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (DataConfig.mean, DataConfig.std))
    return (255 * (made * std + mean)).round().clamp(0, 255).byte().permute(0, 2, 3, 1).contiguous().numpy()


def _deeds(table: ViewTable, row: int, area: int) -> str:
    """What was done to a view, in a few words."""
    factors = [float(column[row]) for column in (table.brightness, table.contrast, table.saturation)]
    done = {
        "flip": bool(table.flip[row]),
        "colour": factors != [1, 1, 1] or bool(table.hue[row] != 0),
        **{OPERATIONS[op]: op > 0 for op in table.ops[row].tolist()},
        "grey": bool(table.gray[row]),
        "blur": bool(table.blur_sigma[row] > 0),
        "solarize": bool(table.solarize[row] < NO_SOLARIZE),
    }
    share = float(table.box[row, 2] * table.box[row, 3]) / area
    return ", ".join([f"crop {share:.0%}", *(name for name, applied in done.items() if applied)])


def _fit(pixels: np.ndarray, cell: int) -> Image.Image:
    """As large as fits into the cell; enlarged pixels stay squares."""
    picture = Image.fromarray(pixels)
    scale = min(cell / picture.width, cell / picture.height)
    size = max(1, round(picture.width * scale)), max(1, round(picture.height * scale))
    return picture.resize(size, Image.Resampling.NEAREST if scale >= 1 else Image.Resampling.LANCZOS)


def _framed(pixels: np.ndarray, boxes: list[list[float]], cell: int) -> Image.Image:
    """The original, with the regions that the views show."""
    picture = _fit(pixels, cell)
    scale_y, scale_x = picture.height / pixels.shape[0], picture.width / pixels.shape[1]
    draw = ImageDraw.Draw(picture)
    for (y, x, h, w), colour in zip(boxes, COLOURS, strict=True):
        left, top = x * scale_x, y * scale_y
        right, bottom = (
            left + max(0, w * scale_x - 1),
            top + max(0, h * scale_y - 1),
        )  # a strip may be less than a pixel
        draw.rectangle((left, top, right, bottom), outline=colour, width=2)
    return picture


def _paste(sheet: Image.Image, picture: Image.Image, left: int, top: int, cell: int) -> None:
    sheet.paste(picture, (left + (cell - picture.width) // 2, top + (cell - picture.height) // 2))


def _caption(draw: ImageDraw.ImageDraw, left: int, top: int, width: int, name: str, place: str) -> None:
    bold, plain = _font(13, True), _font(11)
    room = width - plain.getlength(place)
    draw.text((left, top), _shortened(visible(name), bold, room - 2 * GAP), INK, bold)
    draw.text((left + room, top + 2), place, FAINT, plain)


def _shortened(text: str, font: ImageFont.FreeTypeFont, width: float) -> str:
    """Cut off where it would be wider, with dots."""
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "...") > width:
        text = text[:-1]
    return text + "..."


def _font(points: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    """The one that matplotlib brings along: it has the letters of most European languages."""
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(str(fonts() / name), points)
