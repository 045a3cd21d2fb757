"""The flags of every evaluation, and the module that implements it.

An evaluation is a dataclass of flags here, and a function `run(job, options)` in the module that `EVALUATIONS` names.
The function returns the figures of eval/NAME.json (job.py describes its arguments); reporting/sections.py draws them.
This module does not import torch, so that `--help` is fast.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

from tyro.conf import FlagCreatePairsOff, Positional, arg

from fastvarcon.config import BackendName, Interpolation, Triple
from fastvarcon.errors import UserError


@dataclass
class EvalData:
    train: Path | None = None
    """Labelled images that train the probe, or vote; default: those of the run."""
    val: Path | None = None
    """Held-out labelled images to score; default: those of the run."""
    backend: BackendName | None = None
    """Data backend; default: that of the run (cpu instead of resident, because each image is read only once)."""
    workers: int = 0
    """Decoding threads per process; 0 = the cores of this machine, divided evenly among its processes."""
    size: int | None = None
    """Side of a view in pixels; default: that of the run, else 224."""
    eval_resize: int | None = None
    """Pixels of the shorter side before the centre crop; default: those of the run, else size x 256 / 224."""
    mean: Triple | None = None
    """Per-channel mean in [0, 1] units; default: that of the run, else ImageNet's."""
    std: Triple | None = None
    """Per-channel standard deviation in [0, 1] units; default: that of the run, else ImageNet's."""
    interpolation: Interpolation | None = None
    """Filter of the resize; default: that of the run, else bilinear. Most of timm's networks want bicubic."""


@dataclass
class EvalOptions:
    """The options that all evaluations share."""

    run: Annotated[
        Positional[str],
        arg(
            metavar="RUN",
            help="What to score: a run folder, one of its checkpoint folders, an exported encoder (a .safetensors "
            "file or its folder), or a torchvision or timm model name.",
        ),
    ]
    data: EvalData = field(default_factory=EvalData)
    weights: str | None = None
    """If RUN is a model name: a .safetensors file with its weights, or "random". Nothing is ever downloaded."""
    features: Literal["encoder", "pixels"] = "encoder"
    """encoder: the encoder's features. pixels: raw pixels, the floor that an encoder must beat."""
    seed: int = 0
    """Seed of every split, order and random draw."""
    out: Path | None = None
    """Folder for eval/NAME.json and report.html; default: the run folder, else runs/eval-NAME."""
    allow_same: Annotated[bool, FlagCreatePairsOff] = False
    """Score on the training images themselves, which is refused otherwise: it says nothing about new images."""

    def validate(self) -> None:
        """Raise UserError for values that are invalid for any data."""
        if self.data.workers < 0:
            raise UserError(f"--data.workers must be 0 (all cores) or more, got {self.data.workers}")
        if not 0 <= self.seed < 2**63:
            raise UserError(f"--seed must lie between 0 and 2**63 - 1, got {self.seed}")
        if self.data.size is not None and self.data.size < 1:
            raise UserError(f"--data.size must be at least 1 pixel, got {self.data.size}")

    @property
    def stem(self) -> str:
        """Suffix of the file name for a variant of the evaluation."""
        return "-pixels" if self.features == "pixels" else ""


@dataclass
class Linear(EvalOptions):
    """Linear probe on frozen features: softmax regression; the headline is the last epoch, mean and spread over
    seeds."""

    protocol: Literal["fast", "paper"] = "fast"
    """fast: features are extracted once; learning rate and decay are chosen on a split of the training images. paper:
    features of newly augmented images in every epoch, with the fixed schedule of the reference code."""
    epochs: int = 100
    """Passes over the training images."""
    seeds: int = 3
    """Number of probes to train; the headline is their mean."""
    lr: float = 5.0
    """Protocol paper: learning rate, multiplied by 0.2 after 60, 75 and 90 % of the epochs."""
    policy: str = "crop-flip"
    """Protocol paper: augmentation of the training images."""

    def validate(self) -> None:
        super().validate()
        if self.epochs < 1 or self.seeds < 1:
            raise UserError("--epochs and --seeds must be at least 1")
        if self.lr <= 0:
            raise UserError(f"--lr must be positive, got {self.lr}")
        if self.protocol == "paper" and self.features == "pixels":
            raise UserError("--protocol paper needs an encoder: use --protocol fast for raw pixels")

    @property
    def stem(self) -> str:
        return ("-paper" if self.protocol == "paper" else "") + super().stem


@dataclass
class Knn(EvalOptions):
    """Exact cosine nearest neighbours: majority and temperature-weighted votes, and the nearest class mean."""

    k: tuple[int, ...] | None = None
    """Numbers of neighbours; default 1 5 20 200. The headline is k = 20."""
    temperature: float = 0.07
    """Weighted votes: a neighbour counts exp(cosine / temperature) (Wu et al. 2018)."""

    def validate(self) -> None:
        super().validate()
        if self.k is not None and (not self.k or min(self.k) < 1):
            raise UserError("--k needs one or more numbers of neighbours, each at least 1")
        if self.temperature <= 0:
            raise UserError(f"--temperature must be positive, got {self.temperature}")


@dataclass
class FewShot(EvalOptions):
    """Few labelled images per class: nearest class mean and logistic regression over repeated random draws."""

    shots: tuple[int, ...] = (1, 2, 5, 10, 20, 50, 100)
    """Images per class. Values larger than the smallest class are skipped, with a note."""
    draws: int = 10
    """Random draws per number of images; the interval is over the draws."""
    against: str | None = None
    """Another RUN, for instance a supervised encoder, to score on the same draws."""
    against_weights: str | None = None
    """--weights for --against."""

    def validate(self) -> None:
        super().validate()
        if not self.shots or min(self.shots) < 1:
            raise UserError("--shots needs one or more numbers of images, each at least 1")
        if self.draws < 2:
            raise UserError("--draws must be at least 2: an interval needs a spread")


@dataclass
class Transfer(EvalOptions):
    """Other datasets: L2 logistic regression on frozen features, and fine-tuning."""

    datasets: tuple[Path, ...] = ()
    """Files in pairs: TRAIN VAL TRAIN VAL ... Each pair is a dataset with its own classes."""
    fine_tune: Annotated[bool, FlagCreatePairsOff] = False
    """Also train the full network, on the first process; slow without a GPU."""
    fine_tune_epochs: int = 20
    """Epochs of fine-tuning."""
    fine_tune_batch: int = 64
    """Images per step of fine-tuning."""

    def validate(self) -> None:
        super().validate()
        if not self.datasets or len(self.datasets) % 2:
            raise UserError("--datasets takes files in pairs: TRAIN VAL [TRAIN VAL ...]")
        if self.features == "pixels":
            raise UserError("transfer needs an encoder: leave out --features pixels")
        if self.fine_tune_epochs < 1 or self.fine_tune_batch < 2:
            raise UserError("--fine-tune-epochs must be at least 1 and --fine-tune-batch at least 2")


@dataclass
class Corruption(EvalOptions):
    """Robustness: error of the linear probe on corrupted held-out images, by corruption and severity."""

    source: Path | None = None
    """Corrupted images: a folder of ImageNet-C (CORRUPTION/SEVERITY/CLASS/*) or of CIFAR-10-C (*.npy). Default:
    generate the standard corruptions from the held-out images."""
    corruptions: tuple[str, ...] = ()
    """Names of the corruptions to score; default: the fifteen standard ones, or those of them that the source has."""
    severities: tuple[int, ...] = (1, 2, 3, 4, 5)
    """Severities to score."""
    normalise: Literal["auto", "alexnet", "none"] = "auto"
    """Divide by the published errors of AlexNet, which are for ImageNet. auto: only if there are 1,000 classes."""

    def validate(self) -> None:
        super().validate()
        if not self.severities or not set(self.severities) <= {1, 2, 3, 4, 5}:
            raise UserError("--severities are numbers from 1 to 5")
        if self.features == "pixels":
            raise UserError("corruption needs an encoder: leave out --features pixels")


@dataclass
class Clustering(EvalOptions):
    """Hierarchical clustering of held-out embeddings and of class means."""

    images: int = 5000
    """Largest number of held-out images to cluster, the same share of each class; memory grows with its square."""
    linkage: Literal["ward", "average"] = "ward"
    """How the distance of two clusters is measured."""
    superclasses: Path | None = None
    """CSV file with a line CLASS,SUPERCLASS per class, to compare with the tree of class means."""

    def validate(self) -> None:
        super().validate()
        if self.images < 2:
            raise UserError(f"--images must be at least 2, got {self.images}")


@dataclass
class Embed(EvalOptions):
    """Pictures of the embedding: t-SNE, and UMAP if it is installed."""

    images: int = 1500
    """Largest number of held-out images to show, the same share of each class."""
    checkpoints: tuple[str, ...] = ()
    """Checkpoints of the run to show in addition to its encoder, for instance epoch-050."""
    save: Path | None = None
    """Write the features, labels and positions of the shown images to this .npz file."""
    perplexity: float = 30.0
    """t-SNE: about how many neighbours each point stays near."""

    def validate(self) -> None:
        super().validate()
        if self.images < 4:
            raise UserError(f"--images must be at least 4, got {self.images}")
        if self.perplexity <= 0:
            raise UserError(f"--perplexity must be positive, got {self.perplexity}")
        if self.save is not None and self.save.suffix != ".npz":
            raise UserError(f"--save {self.save}: the file's name must end in .npz")


@dataclass
class Calibration(EvalOptions):
    """Calibration of the linear probe: expected calibration error and reliability diagram."""

    bins: int = 15
    """Number of equal bins of confidence."""

    def validate(self) -> None:
        super().validate()
        if self.bins < 1:
            raise UserError(f"--bins must be at least 1, got {self.bins}")


@dataclass
class Geometry(EvalOptions):
    """Arrangement of classes and views in the features: dispersion, neural collapse, few-shot errors and their
    bounds."""

    shots: tuple[int, ...] = (1, 10, 100)
    """Images per class for the few-shot errors. Values larger than the smallest class are skipped, with a note."""
    draws: int = 3
    """Random draws per number of images; errors are means over the draws."""
    images: int = 5000
    """Largest number of held-out images for the uniformity; time grows with its square."""

    def validate(self) -> None:
        super().validate()
        if self.shots and min(self.shots) < 1:
            raise UserError("--shots are numbers of images, each at least 1")
        if self.draws < 1:
            raise UserError(f"--draws must be at least 1, got {self.draws}")
        if self.images < 2:
            raise UserError(f"--images must be at least 2, got {self.images}")
        if self.features == "pixels":
            raise UserError("geometry needs an encoder: leave out --features pixels")


@dataclass(kw_only=True)
class Alignment(EvalOptions):
    """Similarity of two encoders on the held-out images: linear CKA, RSA and the gap between their weights."""

    against: Annotated[Positional[str], arg(metavar="RUN2", help="The other encoder, in any form that RUN may have.")]
    against_weights: str | None = None
    """--weights for RUN2."""
    images: int = 2000
    """Largest number of held-out images for the Spearman form of RSA; memory grows with its square."""

    def validate(self) -> None:
        super().validate()
        if self.images < 4:
            raise UserError(f"--images must be at least 4, got {self.images}")
        if self.features == "pixels":
            raise UserError("alignment compares encoders: leave out --features pixels")


class Evaluation(NamedTuple):
    options: type[EvalOptions]
    module: str
    """Name of a module in fastvarcon.evaluation, whose `run(job, options)` returns the figures."""


EVALUATIONS = {
    "linear": Evaluation(Linear, "linear"),
    "knn": Evaluation(Knn, "knn"),
    "few-shot": Evaluation(FewShot, "few_shot"),
    "transfer": Evaluation(Transfer, "transfer"),
    "corruption": Evaluation(Corruption, "corruption"),
    "clustering": Evaluation(Clustering, "clustering"),
    "embed": Evaluation(Embed, "embed"),
    "calibration": Evaluation(Calibration, "calibration"),
    "geometry": Evaluation(Geometry, "geometry_scores"),
    "alignment": Evaluation(Alignment, "alignment_scores"),
}
