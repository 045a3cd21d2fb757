"""The flags of every evaluation, and which module answers to which name.

An evaluation is a dataclass of flags here and a function `run(job, options)` in the module that `EVALUATIONS` names; it
returns the figures of eval/NAME.json (see job.py for what it gets). reporting/sections.py draws them. No torch here:
`--help` must not wait for it.
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
    """Labelled images that the probe learns from or that vote; default: those of the run."""
    val: Path | None = None
    """Held-out labelled images that are scored; default: those of the run."""
    backend: BackendName | None = None
    """Data backend; default: that of the run (for resident: cpu, as every image is read once)."""
    workers: int = 0
    """Decoding threads of each process; 0 = an even share of the cores."""
    size: int | None = None
    """Side of a view in pixels; default: that of the run, else 224."""
    eval_resize: int | None = None
    """Pixels of the shorter side before the centre crop; default: that of the run, else size x 256 / 224."""
    mean: Triple | None = None
    """Per-channel mean in [0, 1] units; default: that of the run, else ImageNet's."""
    std: Triple | None = None
    """Per-channel standard deviation in [0, 1] units; default: that of the run, else ImageNet's."""
    interpolation: Interpolation | None = None
    """Filter of the resize; default: that of the run, else bilinear. Most of timm's networks want bicubic."""


@dataclass
class EvalOptions:
    """What every evaluation takes."""

    run: Annotated[
        Positional[str],
        arg(
            metavar="RUN",
            help="What is scored: a run folder, one of its checkpoint folders, an exported encoder (a .safetensors "
            "file or its folder), or a torchvision or timm model name.",
        ),
    ]
    data: EvalData = field(default_factory=EvalData)
    weights: str | None = None
    """For a model name: a .safetensors file with its weights, or "random". Nothing is ever downloaded."""
    features: Literal["encoder", "pixels"] = "encoder"
    """The encoder's features, or raw pixels as the floor that an encoder must beat."""
    seed: int = 0
    """Seeds every split, order and draw."""
    out: Path | None = None
    """Folder for eval/NAME.json and report.html; default: the run folder, else runs/eval-NAME."""

    def validate(self) -> None:
        """Raise UserError for values that no data could make possible."""
        if self.data.workers < 0:
            raise UserError(f"--data.workers must be 0 (all cores) or more, got {self.data.workers}")
        if not 0 <= self.seed < 2**63:
            raise UserError(f"--seed must lie between 0 and 2**63 - 1, got {self.seed}")
        if self.data.size is not None and self.data.size < 1:
            raise UserError(f"--data.size must be at least 1 pixel, got {self.data.size}")

    @property
    def stem(self) -> str:
        """Distinguishes variants of an evaluation in the name of its file."""
        return "-pixels" if self.features == "pixels" else ""


@dataclass
class Linear(EvalOptions):
    """Linear probe on frozen features: softmax regression, last epoch as the headline, mean and spread over seeds."""

    protocol: Literal["fast", "paper"] = "fast"
    """fast: features once, learning rate and decay chosen on a split of the training images. paper: features of newly
    augmented images every epoch and the fixed schedule of the reference code."""
    epochs: int = 100
    """Passes over the training images."""
    seeds: int = 3
    """Probes trained; the headline is their mean."""
    lr: float = 5.0
    """Protocol paper: learning rate, times 0.2 behind 60, 75 and 90 % of the epochs."""
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
    """Cosine nearest neighbours, exact: plain and temperature-weighted votes, and the nearest class mean."""

    k: tuple[int, ...] | None = None
    """Numbers of neighbours; default 1 5 20 200. The headline is k = 20."""
    temperature: float = 0.07
    """Votes of the weighted form count exp(cosine / temperature) (Wu et al. 2018)."""

    def validate(self) -> None:
        super().validate()
        if self.k is not None and (not self.k or min(self.k) < 1):
            raise UserError("--k needs one or more numbers of neighbours, each at least 1")
        if self.temperature <= 0:
            raise UserError(f"--temperature must be positive, got {self.temperature}")


@dataclass
class FewShot(EvalOptions):
    """Few labelled images a class: nearest class mean and logistic regression over repeated draws."""

    shots: tuple[int, ...] = (1, 2, 5, 10, 20, 50, 100)
    """Images a class; numbers that a class cannot give are left out, and said."""
    draws: int = 10
    """Random draws at each number; the interval is over them."""
    against: str | None = None
    """Another RUN, as a supervised encoder, scored on the same draws."""
    against_weights: str | None = None
    """--weights of --against."""

    def validate(self) -> None:
        super().validate()
        if not self.shots or min(self.shots) < 1:
            raise UserError("--shots needs one or more numbers of images, each at least 1")
        if self.draws < 2:
            raise UserError("--draws must be at least 2: an interval needs a spread")


@dataclass
class Transfer(EvalOptions):
    """Other data sets: L2 logistic regression on frozen features, and fine-tuning."""

    datasets: tuple[Path, ...] = ()
    """Files in pairs: TRAIN VAL TRAIN VAL ... Each pair is a data set with classes of its own."""
    fine_tune: Annotated[bool, FlagCreatePairsOff] = False
    """Train the whole network as well, on the first process: slow without a GPU."""
    fine_tune_epochs: int = 20
    """Epochs of fine-tuning."""
    fine_tune_batch: int = 64
    """Images in a step of fine-tuning."""

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
    """Robustness: error of the probe on corrupted held-out images, by corruption and severity."""

    source: Path | None = None
    """Corrupted images: a folder of ImageNet-C (CORRUPTION/SEVERITY/CLASS/*) or of CIFAR-10-C (*.npy). Default: the
    standard corruptions are made of the held-out images."""
    corruptions: tuple[str, ...] = ()
    """Names of the corruptions to score; default: the fifteen standard ones, or all that the source holds of them."""
    severities: tuple[int, ...] = (1, 2, 3, 4, 5)
    """Severities to score."""
    normalise: Literal["auto", "alexnet", "none"] = "auto"
    """Divide by the published errors of AlexNet, which are for ImageNet; auto: where there are 1,000 classes."""

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
    """Held-out images clustered at most, the same share of each class: memory grows with the square."""
    linkage: Literal["ward", "average"] = "ward"
    """How the distance of two clusters is measured."""
    superclasses: Path | None = None
    """CSV file with a line CLASS,SUPERCLASS for every class: how well the tree of class means agrees with it."""

    def validate(self) -> None:
        super().validate()
        if self.images < 2:
            raise UserError(f"--images must be at least 2, got {self.images}")


@dataclass
class Embed(EvalOptions):
    """Pictures of the embedding: t-SNE, and UMAP where it is installed."""

    images: int = 1500
    """Held-out images shown at most, the same share of each class."""
    checkpoints: tuple[str, ...] = ()
    """Checkpoints of the run to show besides its encoder, as epoch-050."""
    save: Path | None = None
    """Write the features, labels and positions of the shown images to this .npz file."""
    perplexity: float = 30.0
    """Of t-SNE: about how many neighbours a point keeps near."""

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
    """Does the linear probe know how sure it may be: expected calibration error and reliability diagram."""

    bins: int = 15
    """Equal bins of confidence."""

    def validate(self) -> None:
        super().validate()
        if self.bins < 1:
            raise UserError(f"--bins must be at least 1, got {self.bins}")


@dataclass
class Geometry(EvalOptions):
    """How classes and views lie in the features: dispersion, neural collapse, few-shot errors and their bounds."""

    shots: tuple[int, ...] = (1, 10, 100)
    """Images a class that few-shot errors are measured with; numbers that a class cannot give are left out."""
    draws: int = 3
    """Random draws at each number; errors are their mean."""
    images: int = 5000
    """Held-out images that uniformity is measured on at most: its time grows with the square."""

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
    """How alike two encoders are on the held-out images: linear CKA, RSA and the gap of their weights."""

    against: Annotated[Positional[str], arg(metavar="RUN2", help="The other one, in any form that RUN may have.")]
    against_weights: str | None = None
    """--weights of RUN2."""
    images: int = 2000
    """Held-out images that the Spearman form of RSA is measured on at most: its memory grows with the square."""

    def validate(self) -> None:
        super().validate()
        if self.images < 4:
            raise UserError(f"--images must be at least 4, got {self.images}")
        if self.features == "pixels":
            raise UserError("alignment compares encoders: leave out --features pixels")


class Evaluation(NamedTuple):
    options: type[EvalOptions]
    module: str
    """Of fastvarcon.evaluation; its `run(job, options)` returns the figures."""


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
