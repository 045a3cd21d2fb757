"""Image pipelines side by side: ours, and those that people use. Each yields the number of images after a batch.

The two-view pipelines make what SupCon and VarCon train on (docs/maths/varcon.md#the-reference-run): random resized
crop of 20-100 % of the area, flip, colour jitter .4/.4/.4/.1 with probability .8, grey with .2, normalised float32.
Where a library lacks an operation, the name says what it does do.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from fastvarcon.bench.rounds import Competitor
from fastvarcon.data.backends import open_backend
from fastvarcon.data.buffers import BufferPool
from fastvarcon.data.loader import Loader, ViewSpec
from fastvarcon.data.sampling import batch_ids, epoch_order

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Job:
    file: Path
    """The converted dataset."""
    images: Path
    """The same images as a folder, for those who read no .beton."""
    size: int
    """Side of a view, pixels."""
    batch: int
    """Images."""
    workers: int
    """Threads or processes."""


def _decode(name: str, job: Job) -> Iterator[int]:
    """What the host of a GPU job does: decode every image once, into a buffer that is used again."""
    torch.set_num_threads(1)
    backend, pool = open_backend(name, job.file, job.workers), BufferPool(count=1, pinned=False)
    for epoch in itertools.count():
        order = epoch_order(len(backend), 0, epoch)
        for step in range(len(order) // job.batch):
            taken: list[torch.Tensor] = []
            backend.fetch(batch_ids(order, step, job.batch), functools.partial(_take, pool, taken))
            for buffer in taken:
                pool.give_back(buffer)
            yield job.batch


def _take(pool: BufferPool, taken: list[torch.Tensor], size: int) -> torch.Tensor:
    taken.append(pool.take(size))
    return taken[-1]


def decode_cpu(job: Job) -> Iterator[int]:
    return _decode("cpu", job)


def decode_folder(job: Job) -> Iterator[int]:
    return _decode("folder", Job(job.images, job.images, job.size, job.batch, job.workers))


def decode_dali(job: Job) -> Iterator[int]:
    return _decode("dali", job)


def decode_ffcv(job: Job) -> Iterator[int]:
    return _decode("ffcv", job)


def _two_views(name: str, job: Job) -> Iterator[int]:
    torch.set_num_threads(job.workers)
    spec = ViewSpec(size=job.size, mean=MEAN, std=STD)
    backend = open_backend(name, job.file, job.workers)
    with Loader(backend, spec, global_batch=job.batch, epochs=2**31) as loader:
        while True:
            for _, labels, _ in loader:
                yield len(labels)


def two_views_cpu(job: Job) -> Iterator[int]:
    return _two_views("cpu", job)


def two_views_resident(job: Job) -> Iterator[int]:
    return _two_views("resident", job)


class _TwoCrop:
    def __init__(self, transform):
        self.transform = transform

    def __call__(self, image):
        return self.transform(image), self.transform(image)


def two_crop_loader(
    images: Path, size: int, batch: int, workers: int, mean=MEAN, std=STD, pin_memory: bool = False
) -> torch.utils.data.DataLoader:
    """The loader of the SupCon and VarCon reference code: ((first views, second views), labels) of a batch."""
    from torchvision import transforms
    from torchvision.datasets import ImageFolder

    transform = transforms.Compose(
        [
            transforms.RandomResizedCrop(size, scale=(0.2, 1.0)),
            transforms.RandomHorizontalFlip(),
            transforms.RandomApply([transforms.ColorJitter(0.4, 0.4, 0.4, 0.1)], p=0.8),
            transforms.RandomGrayscale(p=0.2),
            transforms.ToTensor(),
            transforms.Normalize(mean, std),
        ]
    )
    return torch.utils.data.DataLoader(
        ImageFolder(str(images), _TwoCrop(transform)),
        batch_size=batch,
        shuffle=True,
        drop_last=True,
        num_workers=workers,
        persistent_workers=True,
        pin_memory=pin_memory,
    )


def two_views_torchvision(job: Job) -> Iterator[int]:
    loader = two_crop_loader(job.images, job.size, job.batch, job.workers)
    while True:
        for (first, _), _ in loader:
            yield len(first)


def _ffcv(job: Job, colour: bool) -> Iterator[int]:
    from ffcv.fields.decoders import IntDecoder, RandomResizedCropRGBImageDecoder
    from ffcv.loader import Loader as FfcvLoader
    from ffcv.loader import OrderOption
    from ffcv.pipeline import PipelineSpec
    from ffcv.transforms import (
        NormalizeImage,
        RandomBrightness,
        RandomContrast,
        RandomHorizontalFlip,
        RandomSaturation,
        ToTensor,
    )

    def view() -> list:
        jitter = [op(0.4, 0.8) for op in (RandomBrightness, RandomContrast, RandomSaturation)] if colour else []
        decoder = RandomResizedCropRGBImageDecoder((job.size, job.size), scale=(0.2, 1.0))
        normalise = NormalizeImage(255 * np.array(MEAN), 255 * np.array(STD), np.float32)
        return [decoder, RandomHorizontalFlip(), *jitter, normalise, ToTensor()]

    loader = FfcvLoader(
        str(job.file),
        batch_size=job.batch,
        num_workers=job.workers,
        order=OrderOption.RANDOM,
        os_cache=True,
        drop_last=True,
        pipelines={
            "image": view(),
            "image_2": PipelineSpec("image", decoder=None, transforms=view()),
            "label": [IntDecoder(), ToTensor()],
        },
    )
    while True:
        for first, *_ in loader:
            yield len(first)


def two_views_ffcv(job: Job) -> Iterator[int]:
    return _ffcv(job, colour=False)


def two_views_ffcv_colour(job: Job) -> Iterator[int]:
    return _ffcv(job, colour=True)


def two_views_dali(job: Job) -> Iterator[int]:
    """DALI on the CPU, decoding once and cropping twice."""
    from nvidia.dali import fn, pipeline_def, types

    @pipeline_def(batch_size=job.batch, num_threads=job.workers, device_id=None, seed=0)
    def pipeline():
        encoded, labels = fn.readers.file(file_root=str(job.images), random_shuffle=True, name="images")
        images = fn.decoders.image(encoded, device="cpu", output_type=types.RGB)
        return dali_view(images, job.size), dali_view(images, job.size), labels

    running = pipeline()
    running.build()
    while True:
        first, _, _ = running.run()
        yield len(first)


def dali_view(images, size: int):
    """One view of each image, in the definition of a DALI pipeline."""
    from nvidia.dali import fn

    crop = fn.random_resized_crop(images, size=size, random_area=(0.2, 1.0), random_aspect_ratio=(3 / 4, 4 / 3))
    jitter = fn.random.coin_flip(probability=0.8)
    strong = [fn.random.uniform(range=(0.6, 1.4)) * jitter + 1.0 * (1 - jitter) for _ in range(3)]
    grey = fn.random.coin_flip(probability=0.2)
    colour = fn.color_twist(
        crop,
        brightness=strong[0],
        contrast=strong[1],
        saturation=strong[2] * (1 - grey),
        hue=fn.random.uniform(range=(-36.0, 36.0)) * jitter,
    )
    return fn.crop_mirror_normalize(
        colour,
        mirror=fn.random.coin_flip(probability=0.5),
        mean=[255 * m for m in MEAN],
        std=[255 * s for s in STD],
    )


def _gpu_views(name: str, job: Job) -> Iterator[int]:
    """Both views on the GPU, ready for the network; decoded wherever the backend does it."""
    torch.set_num_threads(1)
    spec = ViewSpec(size=job.size, mean=MEAN, std=STD, dtype=torch.bfloat16)
    backend = open_backend(name, job.file, job.workers, device="cuda")
    with Loader(backend, spec, global_batch=job.batch, epochs=2**31, device="cuda") as loader:
        while True:
            for _, labels, _ in loader:
                torch.cuda.current_stream().synchronize()
                yield len(labels)


def gpu_views_cpu(job: Job) -> Iterator[int]:
    return _gpu_views("cpu", job)


def gpu_views_resident(job: Job) -> Iterator[int]:
    return _gpu_views("resident", job)


def gpu_views_nvjpeg(job: Job) -> Iterator[int]:
    return _gpu_views("nvjpeg", job)


def gpu_views_dali(job: Job) -> Iterator[int]:
    return _gpu_views("dali", job)


GPU_VIEWS: dict[str, Competitor] = {
    "fastvarcon cpu": gpu_views_cpu,
    "fastvarcon resident": gpu_views_resident,
    "fastvarcon nvjpeg": gpu_views_nvjpeg,
    "fastvarcon dali": gpu_views_dali,
}
DECODE: dict[str, Competitor] = {
    "fastvarcon cpu": decode_cpu,
    "fastvarcon dali": decode_dali,
    "fastvarcon ffcv": decode_ffcv,
    "fastvarcon folder (PIL)": decode_folder,
}
BASELINE = "torchvision two-crop DataLoader"
TWO_VIEWS: dict[str, Competitor] = {
    BASELINE: two_views_torchvision,
    "fastvarcon cpu": two_views_cpu,
    "fastvarcon resident": two_views_resident,
    "ffcv Loader (crop, flip)": two_views_ffcv,
    "ffcv Loader (crop, flip, jitter without hue, no grey)": two_views_ffcv_colour,
    "DALI cpu pipeline": two_views_dali,
}
