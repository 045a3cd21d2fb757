"""Pictures of the embedding: positions by t-SNE, and by UMAP where it is installed, with a thumbnail of every image."""

from __future__ import annotations

import base64
import contextlib
import io
import math
from functools import partial
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from fastvarcon.data.loader import Loader, ViewSpec
from fastvarcon.errors import UserError
from fastvarcon.evaluation.features import BATCH
from fastvarcon.evaluation.images import Images
from fastvarcon.evaluation.job import Job
from fastvarcon.evaluation.options import Embed
from fastvarcon.evaluation.splits import at_most
from fastvarcon.evaluation.target import Target
from fastvarcon.whole_file import whole_file

THUMBNAIL = 32  # pixels
THUMBNAIL_QUALITY = 80
GRID = 1000  # positions are whole numbers from 0 to GRID


def run(job: Job, options: Embed) -> dict:
    targets = _targets(job, options.checkpoints)
    val = job.val()
    chosen = at_most(val.labels, options.images, torch.Generator().manual_seed(options.seed))
    if len(chosen) < 4:
        raise UserError(f"{job.data.val} has {len(chosen)} images: a map needs at least 4")
    features = {name: job.features(job.val_images, target).x[chosen] for name, target in targets.items()}
    maps, methods = [], ["t-SNE", *(["UMAP"] if _umap() is not None else [])]
    for name, x in features.items():
        unit = F.normalize(x, dim=1).numpy()
        for method in methods:
            place = _tsne(unit, options) if method == "t-SNE" else _umap_places(unit, options)
            maps.append({"checkpoint": name, "method": method, "places": to_grid(place)})
    if options.save is not None:
        labels = val.labels[chosen].numpy()
        job.files.append(partial(_save, options.save, features, labels, chosen.numpy(), val.classes, maps))
    columns = math.ceil(math.sqrt(len(chosen)))
    said = "" if len(methods) > 1 else "; UMAP left out: pip install 'fastvarcon[umap]'"
    return {
        "maps": maps,
        "grid": GRID,
        "labels": val.labels[chosen].tolist(),
        "classes": val.classes,
        "thumbnails": thumbnails(job, job.val_images, chosen, columns) if job.target.kind != "pixels" else None,
        "thumbnail_columns": columns,
        "thumbnail_side": THUMBNAIL,
        "num_val": len(chosen),
        "protocol": f"{' and '.join(methods)} of {len(chosen):,} unit embeddings, perplexity "
        f"{_perplexity(options, len(chosen)):g}{said}",
        "lines": [f"features and places of the images: {options.save}"] if options.save is not None else [],
    }


def _targets(job: Job, checkpoints: tuple[str, ...]) -> dict[str, Target]:
    """Chosen checkpoints, then the encoder itself."""
    if checkpoints and job.target.kind != "run":
        raise UserError("--checkpoints belongs to a run folder: leave it out")
    targets = {}
    for name in checkpoints:
        path = job.target.place / "checkpoints" / name
        if not path.is_dir():
            there = sorted(one.name for one in path.parent.glob("*")) if path.parent.is_dir() else []
            raise UserError(f"{path} does not exist: the run has {', '.join(there) or 'no checkpoints'}")
        targets[name] = Target("checkpoint", path)
    return {**targets, "encoder" if job.target.kind != "pixels" else "pixels": job.target}


def _perplexity(options: Embed, count: int) -> float:
    return min(options.perplexity, (count - 1) / 3)


def _tsne(unit: np.ndarray, options: Embed) -> np.ndarray:
    from sklearn.manifold import TSNE

    perplexity = _perplexity(options, len(unit))
    return TSNE(perplexity=perplexity, init="pca", random_state=options.seed % 2**32).fit_transform(unit)


def _umap() -> ModuleType | None:
    try:
        import umap
    except ImportError:
        return None
    return umap


def _umap_places(unit: np.ndarray, options: Embed) -> np.ndarray:
    neighbours = min(15, len(unit) - 1)
    umap = _umap()
    assert umap is not None, "asked for where it is missing"
    # a seed allows one thread only; UMAP says so unless it is told
    return umap.UMAP(n_neighbors=neighbours, random_state=options.seed % 2**32, n_jobs=1).fit_transform(unit)


def to_grid(places: np.ndarray) -> list[list[int]]:
    """[n, 2] of any range -> whole numbers, the longer side from 0 to GRID, proportions kept."""
    low, high = places.min(axis=0), places.max(axis=0)
    extent = max(float((high - low).max()), 1e-12)
    return np.round((places - low) / extent * GRID).astype(int).tolist()


def thumbnails(job: Job, images: Images, chosen: Tensor, columns: int) -> str:
    """A JPEG of all chosen images in rows of `columns`, in base64."""
    side = THUMBNAIL
    spec = ViewSpec(size=side, mean=(0.0,) * 3, std=(1.0,) * 3, policy="eval", num_views=1, resize=side)
    sheet = np.zeros((math.ceil(len(chosen) / columns) * side, columns * side, 3), dtype=np.uint8)
    with contextlib.ExitStack() as opened:
        backend = opened.enter_context(contextlib.closing(images.open(job.workers, torch.device("cpu"), job.data)))
        subset = chosen.numpy()
        loader = opened.enter_context(Loader(backend, spec, global_batch=BATCH, train=False, subset=subset))
        views = torch.cat([batch for batch, _, _ in loader])
    tiles = (views.clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).numpy()
    for number, tile in enumerate(tiles):
        y, x = side * (number // columns), side * (number % columns)
        sheet[y : y + side, x : x + side] = tile
    stream = io.BytesIO()
    Image.fromarray(sheet).save(stream, "JPEG", quality=THUMBNAIL_QUALITY)
    return base64.b64encode(stream.getvalue()).decode()


def _save(
    path: Path, features: dict, labels: np.ndarray, ids: np.ndarray, classes: list[str], maps: list[dict]
) -> None:
    """features_NAME [n, D], labels, ids, classes, and places_NAME_METHOD [n, 2] in one file, whole or not at all."""
    arrays = {f"features_{name}": x.numpy() for name, x in features.items()}
    arrays |= {f"places_{one['checkpoint']}_{one['method']}": np.array(one["places"]) for one in maps}
    with whole_file(path, "give another place with --save") as aside, open(aside, "wb") as file:
        np.savez_compressed(file, labels=labels, ids=ids, classes=np.array(classes), **arrays)
