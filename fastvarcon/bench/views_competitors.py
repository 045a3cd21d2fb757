"""Augmentation side by side: two SimAugment views of each image of a decoded batch, by us and by what people use.

SimAugment is what SupCon and VarCon train on (docs/maths/varcon.md#the-reference-run): random resized crop of 20-100 %
of the area, flip, colour jitter .4/.4/.4/.1 with probability .8, grey with .2, normalised. Images are uint8, as
decoders give them, and lie where the views are made. Everybody draws new random numbers for every batch, and the time
of that counts.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastvarcon import kernels
from fastvarcon.bench.loader_competitors import MEAN, STD, dali_view
from fastvarcon.bench.timing import Setup, Work
from fastvarcon.data.augment import ViewTable, view_params
from fastvarcon.data.batch import ImageBatch
from fastvarcon.kernels import reference

POLICY = "simaugment"
VIEWS = 2
PARAMETERS_IMAGES = 65_536
LOOP_IMAGES = 128  # where a GPU gets them one by one, a call need not do the whole batch


@dataclass(frozen=True)
class Job:
    size: int
    """Side of a view, pixels."""
    source: int
    """Longer side of an image, pixels; the shorter one is 3/5 of it or more, and the same for sources of 32 or less."""
    batch: int
    """Images."""
    workers: int
    """Threads or processes on the CPU."""
    device: str

    @property
    def task(self) -> str:
        return f"{self.size} px from {self.source} px"

    def images(self) -> list[np.ndarray]:
        """[height, width, 3] uint8; what they show makes no difference to the time."""
        rng = np.random.default_rng(0)
        found = []
        for _ in range(self.batch):
            shorter = self.source if self.source <= 32 else int(rng.integers(3 * self.source // 5, self.source + 1))
            sides = rng.permutation([self.source, shorter])
            found.append(rng.integers(0, 256, (*sides, 3), dtype=np.uint8))
        return found

    def image_batch(self) -> ImageBatch:
        numbers = np.arange(self.batch)
        batch = ImageBatch.from_images(self.images(), numbers, numbers)
        return dataclasses.replace(batch, pixels=batch.pixels.to(self.device))

    def planar(self) -> list[Tensor]:
        """[3, height, width] uint8 on the device, as torchvision and kornia want them."""
        return [torch.from_numpy(image).permute(2, 0, 1).contiguous().to(self.device) for image in self.images()]


def tables(batch: ImageBatch, epoch: int) -> ViewTable:
    heights, widths = batch.height.numpy(), batch.width.numpy()
    ids = batch.ids.numpy()
    return ViewTable.cat(
        [view_params(POLICY, 0, epoch, ids, view, heights=heights, widths=widths) for view in range(VIEWS)]
    )


def ours(job: Job) -> Work:
    """Parameters and views, in bfloat16 on a GPU, in float32 on the CPU."""
    torch.set_num_threads(job.workers)
    batch, epochs = job.image_batch(), itertools.count()
    dtype = torch.bfloat16 if job.device == "cuda" else torch.float32
    look: dict[str, Any] = {"mean": MEAN, "std": STD, "dtype": dtype}

    def call() -> Tensor:
        return kernels.views(batch, tables(batch, next(epochs)), size=job.size, **look)

    if job.device == "cpu":
        return Work(call)
    from fastvarcon.kernels import views_triton
    from fastvarcon.kernels.view_plan import make_plan

    plan = make_plan(batch, tables(batch, 0), job.size).to(torch.device(job.device))
    return Work(call, device_part=lambda: views_triton.launch(batch.pixels, plan, **look))


def ours_reference(job: Job) -> Work:
    torch.set_num_threads(job.workers)
    batch, epochs = job.image_batch(), itertools.count()

    def call() -> Tensor:
        return reference.views(batch, tables(batch, next(epochs)), size=job.size, mean=MEAN, std=STD)

    return Work(call, capturable=False)


def ours_parameters(job: Job) -> Work:
    """The random numbers of two views alone, many images at a time, on one core."""
    batch, epochs = job.image_batch(), itertools.count()
    units = max(1, PARAMETERS_IMAGES // job.batch)
    ids = np.arange(units * job.batch)
    heights, widths = (np.tile(column.numpy(), units) for column in (batch.height, batch.width))

    def call() -> None:
        epoch = next(epochs)
        for view in range(VIEWS):
            view_params(POLICY, 0, epoch, ids, view, heights=heights, widths=widths)

    return Work(call, units=units)


def torchvision(as_float: bool, job: Job) -> Work:
    """A sample at a time, as users write it: on the CPU in the workers of a DataLoader, on a GPU in a loop."""
    images, transform = job.planar(), torchvision_transform(job.size, as_float)
    if job.device == "cuda":
        return Work(lambda: torch.stack([transform(image) for image in images for _ in range(VIEWS)]), capturable=False)
    torch.set_num_threads(1)
    endless = torch.utils.data.DataLoader(
        _Pairs(images, transform),
        batch_size=job.batch,
        num_workers=job.workers,
        sampler=_Numbers(),
    )
    batches = iter(endless)
    return Work(lambda: next(batches))


def torchvision_transform(size: int, as_float: bool):
    from torchvision.transforms import v2

    to_float = [v2.ToDtype(torch.float32, scale=True)]
    return v2.Compose(
        [
            *(to_float if as_float else []),
            v2.RandomResizedCrop(size, scale=(0.2, 1.0), antialias=True),
            v2.RandomHorizontalFlip(),
            v2.RandomApply([v2.ColorJitter(0.4, 0.4, 0.4, 0.1)], p=0.8),
            v2.RandomGrayscale(p=0.2),
            *([] if as_float else to_float),
            v2.Normalize(MEAN, STD),
        ]
    )


class _Pairs(torch.utils.data.Dataset):
    def __init__(self, images: list[Tensor], transform):
        self.images, self.transform = images, transform

    def __getitem__(self, number: int) -> list[Tensor]:
        image = self.images[number % len(self.images)]
        return [self.transform(image) for _ in range(VIEWS)]


class _Numbers(torch.utils.data.Sampler):
    def __iter__(self):
        return itertools.count()


def kornia(job: Job) -> Work:
    """A batch at a time, but images of different sizes are cropped one by one, so of those a batch of LOOP_IMAGES."""
    from kornia import augmentation as K

    torch.set_num_threads(job.workers)
    images = job.planar()
    crop = K.RandomResizedCrop((job.size, job.size), scale=(0.2, 1.0))
    rest = torch.nn.Sequential(
        K.RandomHorizontalFlip(),
        K.ColorJitter(0.4, 0.4, 0.4, 0.1, p=0.8),
        K.RandomGrayscale(p=0.2),
        K.Normalize(torch.tensor(MEAN), torch.tensor(STD)),
    )
    if len({image.shape for image in images}) == 1:
        whole = torch.stack(images)
        return Work(lambda: rest(crop(torch.cat([whole] * VIEWS) / 255)), capturable=False)
    some = images[:LOOP_IMAGES]
    return Work(
        lambda: rest(torch.cat([crop(image[None] / 255) for image in some for _ in range(VIEWS)])),
        capturable=False,
        units=len(some) / job.batch,
    )


def dali(job: Job) -> Work:
    from nvidia.dali import fn, pipeline_def

    images = [torch.from_numpy(image).to(job.device) for image in job.images()]
    fed = images if job.device == "cuda" else [image.numpy() for image in images]
    where = {"cpu": None, "cuda": 0}[job.device]

    @pipeline_def(batch_size=job.batch, num_threads=job.workers, device_id=where, seed=0)
    def pipeline():
        device = "gpu" if job.device == "cuda" else "cpu"
        decoded = fn.external_source(lambda: fed, device=device, layout="HWC", batch=True, no_copy=True)
        return tuple(dali_view(decoded, job.size) for _ in range(VIEWS))

    running = pipeline()
    running.build()

    def call() -> object:
        out = running.run()
        if job.device == "cuda":
            torch.cuda.synchronize()  # its streams are its own
        return out

    return Work(call, capturable=False)


BASELINE = "torchvision v2, float tensors"
OURS = {"cpu": "fastvarcon numba", "cuda": "fastvarcon Triton"}


PARAMETERS = "fastvarcon view_params alone"


def competitors(device: str) -> dict[str, Setup]:
    return {
        BASELINE: functools.partial(torchvision, True),
        "torchvision v2, uint8 tensors": functools.partial(torchvision, False),
        "kornia": kornia,
        "DALI": dali,
        "fastvarcon reference (plain torch)": ours_reference,
        OURS[device]: ours,
        **({PARAMETERS: ours_parameters} if device == "cpu" else {}),
    }
