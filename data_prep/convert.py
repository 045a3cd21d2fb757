"""Image folder -> .beton, in parallel over processes, in order, with a policy for broken images."""

from __future__ import annotations

import io
import multiprocessing
import os
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from PIL import Image

from fastvarcon.data import beton
from fastvarcon.data.decode import ImageError, open_image, to_rgb
from fastvarcon.data.image_folder import ImageFolder
from fastvarcon.data_prep.beton_writer import MAX_SIDE, BetonWriter
from fastvarcon.errors import UserError

CHUNK = 16  # images a worker takes at a time: amortises the trip between processes, and bounds memory
ORIENTATION = 0x0112  # EXIF tag


@dataclass(frozen=True)
class EncodeSettings:
    mode: Literal["jpg", "raw", "keep"] = "jpg"
    """jpg: re-encode. raw: pixels. keep: the original JPEG bytes where they need no change, else re-encode."""
    max_resolution: int | None = None
    """Longer side in pixels at most; larger images are shrunk with an area filter, as FFCV does."""
    quality: int = 90
    """JPEG quality, 1-100."""

    def validate(self) -> None:
        if self.max_resolution is not None and self.max_resolution < 1:
            raise UserError(f"--max-resolution must be at least 1 pixel, got {self.max_resolution}")
        if not 1 <= self.quality <= 100:
            raise UserError(f"--quality must lie between 1 and 100, got {self.quality}")


@dataclass(frozen=True)
class Record:
    payload: bytes
    mode: int
    height: int
    width: int


@dataclass(frozen=True)
class Conversion:
    written: int
    skipped: list[str]
    """Messages, each naming a file."""
    skipped_list: Path | None
    """Where they are listed."""


def encode(path: Path, settings: EncodeSettings) -> Record:
    """Read one image file into the record that the .beton will hold. Raises ImageError, naming the file."""
    image = open_image(path, str(path))
    fits = settings.max_resolution is None or max(image.size) <= settings.max_resolution
    if settings.mode == "keep" and fits and _can_be_kept(image):
        return Record(_bytes_of(path), beton.JPG, image.height, image.width)
    rgb = to_rgb(image, str(path))
    if not fits:
        ratio = settings.max_resolution / max(rgb.size)
        rgb = rgb.resize([max(1, round(ratio * side)) for side in rgb.size], Image.Resampling.BOX)
    if max(rgb.size) > MAX_SIDE:
        raise ImageError(
            f"{path}: {rgb.width} x {rgb.height} pixels are more than the format's {MAX_SIDE} a side: "
            "use --max-resolution"
        )
    if settings.mode == "raw":
        return Record(rgb.tobytes(), beton.RAW, rgb.height, rgb.width)
    stream = io.BytesIO()
    rgb.save(stream, "JPEG", quality=settings.quality)
    return Record(stream.getvalue(), beton.JPG, rgb.height, rgb.width)


def _bytes_of(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ImageError(f"{path}: cannot be read ({error.strerror})") from None


def _can_be_kept(image: Image.Image) -> bool:
    """A JPEG that every decoder turns into the same upright RGB pixels."""
    if image.format != "JPEG" or image.mode not in ("RGB", "L") or max(image.size) > MAX_SIDE:
        return False
    try:
        return image.getexif().get(ORIENTATION, 1) == 1
    except Exception:  # an EXIF block that cannot be parsed may hide a rotation: re-encode
        return False


def convert(
    source: ImageFolder,
    out: Path,
    settings: EncodeSettings,
    *,
    workers: int,
    on_error: Literal["stop", "skip"],
    on_images: Callable[[int], None] = lambda images: None,
) -> Conversion:
    """Write `source` to `out`. `on_images` is told how many images each finished chunk had.

    Raises:
        UserError: a broken image (policy stop), no image at all, a dead worker, a full disk; `out` stays as it was.
    """
    settings.validate()
    skipped: list[str] = []
    extra = {"mode": settings.mode, "max_resolution": settings.max_resolution, "quality": settings.quality}
    try:
        with BetonWriter(out, len(source.paths), source.classes, extra) as writer:
            labels = iter(source.labels)
            for results in _encode_all(source.paths, settings, workers):
                for result, label in zip(results, labels, strict=False):
                    if isinstance(result, Record):
                        writer.add(
                            result.payload, mode=result.mode, height=result.height, width=result.width, label=int(label)
                        )
                    elif on_error == "skip":
                        skipped.append(result)
                    else:
                        raise UserError(f"{result}: repair or remove it, or pass --on-error skip")
                on_images(len(results))
            if len(writer) == 0:
                raise UserError(f"none of the {len(source.paths)} files in {source.root} is an image that can be read")
    except BrokenProcessPool:
        raise UserError(
            f"a conversion worker died (out of memory?): nothing was written to {out}; try fewer --workers"
        ) from None
    except BrokenPipeError:  # of the progress display, not of the file
        raise
    except OSError as error:
        raise UserError(f"{out} cannot be written ({error.strerror or error}): no part of it was left") from None
    return Conversion(len(source.paths) - len(skipped), skipped, _list_skipped(out, skipped))


def _encode_all(paths: list[Path], settings: EncodeSettings, workers: int) -> Iterator[list[Record | str]]:
    """Results of every chunk in order. At most three chunks per worker are under way: memory holds their images."""
    chunks = [paths[i : i + CHUNK] for i in range(0, len(paths), CHUNK)]
    if workers == 1 or len(chunks) == 1:
        for chunk in chunks:
            yield _encode_chunk(chunk, settings)
        return
    context = multiprocessing.get_context("spawn")  # fork is unsafe in a process with threads
    with ProcessPoolExecutor(min(workers, len(chunks)), context, initializer=_end_with_parent) as pool:
        waiting: deque[Future] = deque()
        try:
            for chunk in chunks:
                waiting.append(pool.submit(_encode_chunk, chunk, settings))
                if len(waiting) >= 3 * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def _end_with_parent() -> None:
    """End this worker when the converting process is gone, however it went: nobody else would tell it."""

    def watch() -> None:
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _encode_chunk(paths: list[Path], settings: EncodeSettings) -> list[Record | str]:
    """A record or an error message for every path."""
    results: list[Record | str] = []
    for path in paths:
        try:
            results.append(encode(path, settings))
        except ImageError as error:
            results.append(str(error))
    return results


def _list_skipped(out: Path, skipped: list[str]) -> Path | None:
    sidecar = out.with_name(out.name + ".skipped.txt")
    if not skipped:
        sidecar.unlink(missing_ok=True)
        return None
    try:
        sidecar.write_text("\n".join(skipped) + "\n", encoding="utf-8", errors="surrogateescape")
    except OSError as error:
        raise UserError(
            f"{out} is written, but the list of skipped files is not: {sidecar} ({error.strerror})"
        ) from None
    return sidecar
