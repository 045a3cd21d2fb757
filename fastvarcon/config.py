"""Every setting of a run, with its default, its unit and the reason for the default.

A recipe is an instance of `Config`; its command line mirrors the fields (`--train.epochs 200`). The resolved values are
written to `config.json` in the run folder, where evaluation and resume read them.
"""

from __future__ import annotations

import dataclasses
import math
import reprlib
import typing
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NoReturn

from fastvarcon.errors import UserError
from fastvarcon.json_file import read_json, write_json

Triple = tuple[float, float, float]
PolicyName = Literal[
    "simaugment",
    "simclr",
    "nscl-cifar",
    "autoaugment",
    "randaugment",
    "stacked-randaugment",
    "crop-flip",
    "crop",
    "eval",
]
LossName = Literal[
    "varcon",
    "supcon",
    "simclr",
    "dcl",
    "nscl",
    "sincere",
    "hscl",
    "ssem",
    "dhel",
    "kcl",
    "clop",
    "cross_entropy",
]
BackendName = Literal["cpu", "resident", "nvjpeg", "dali", "ffcv", "folder"]

Interpolation = Literal["bilinear", "bicubic"]

TRACKERS = ("tensorboard", "wandb", "mlflow")
RESNETS = ("resnet18", "resnet34", "resnet50", "resnet101")
LARGEST_VIEW, LARGEST_RESIZE, WIDEST = 4096, 16_384, 64.0
"""Of --data.size and --data.eval-resize in pixels, and of --model.width."""
TIMM = "timm/"
"""Prefix of the names of encoders that the timm package builds."""


@dataclass
class DataConfig:
    train: Path | None = None
    """Training images: a .beton file, a pattern of its shards ("train-*.beton") or a folder of tar shards, all written
    by `fastvarcon convert`; for backend folder an image folder."""
    val: Path | None = None
    """Held-out images of the same classes, for the accuracy curve during training and for `fastvarcon eval`."""
    allow_same: bool = False
    """Take the training images as held-out ones too, which is refused otherwise: such scores say nothing about new
    images."""
    backend: BackendName = "cpu"
    """What decodes the images, each once per step. cpu: threads. resident: all images once, before the first step, into
    memory. nvjpeg: the GPU. dali: a DALI pipeline. ffcv: ffcv's own loader. folder: PIL, the slow reference."""
    keep: Literal["auto", "device", "pinned", "shared"] = "auto"
    """Backend resident: where the decoded images are stored. device: memory of each GPU. pinned: page-locked memory of
    each process. shared: one host copy for all processes of a machine. auto: device if half of its free memory is
    enough, else a host copy."""
    on_bad_image: Literal["stop", "replace"] = "stop"
    """What to do about a broken image: stop the run, or replace it with the next image of its class and report it."""
    policy: PolicyName = "simaugment"
    """Augmentation. simaugment: the SupCon/VarCon recipe, crop .2-1, flip, colour jitter, grey. simclr: stronger, with
    blur. nscl-cifar: simaugment with crops from .08. autoaugment, randaugment: torchvision's, after crop and flip.
    stacked-randaugment: RandAugment within simclr. crop-flip. crop: no flip, for digits. eval: only the centre crop."""
    interpolation: Interpolation = "bilinear"
    """Filter for resizing, always antialiased, in training and evaluation. bicubic is sharper and costs more; where
    it overshoots [0, 1], evaluation clips it as PIL does, and training leaves it as torchvision does on floats."""
    num_views: int = 2
    """Views per image in each step; VarCon and SupCon use two."""
    size: int = 224
    """Side of a view in pixels."""
    eval_resize: int = 256
    """Evaluation resizes the shorter side to this many pixels, then crops the centre `size` x `size`."""
    mean: Triple = (0.485, 0.456, 0.406)
    """Per-channel mean in [0, 1] units that normalisation subtracts (default: ImageNet)."""
    std: Triple = (0.229, 0.224, 0.225)
    """Per-channel standard deviation in [0, 1] units that normalisation divides by (default: ImageNet)."""
    workers: int = 0
    """Decoding threads per process; 0 = the cores of this machine, divided evenly among its processes."""
    prefetch: int = 2
    """Batches prepared in advance. Two hide the jitter of decoding; more only cost memory."""
    prefetch_mb: int = 1024
    """Limit for the prepared views, in MB; one batch is always prepared."""

    @property
    def train_file(self) -> Path:
        """`train` of a validated configuration."""
        assert self.train is not None, "validate comes first"
        return self.train


@dataclass
class SamplingConfig:
    order: Literal["shuffle", "block"] = "shuffle"
    """shuffle: a uniform permutation in every epoch. block: for files larger than memory; blocks are read sequentially,
    in random order, and their images are shuffled within a window."""
    block_mb: int = 16
    """Order block: MB per sequential read; enough to hide the seek time of a disk or a network file system."""
    window_mb: int = 1024
    """Order block: MB of the file that are shuffled together. The page cache must hold two windows."""
    per_class: int = 0
    """Images per class present in a batch (or a multiple of it); 0 = left to chance. The global batch must be a
    multiple of it."""
    bind: bool = False
    """Put one fixed image of every class into each global batch, in its last places: every step then compares every
    pair of classes, even rare ones. For few classes relative to the batch; order shuffle only."""


@dataclass
class ModelConfig:
    encoder: str = "resnet50"
    """resnet18, resnet34, resnet50 or resnet101: torchvision's; the paper's figures use resnet50. timm/NAME: any model
    of the timm package, for instance timm/vit_small_patch16_224."""
    width: float = 1.0
    """Torchvision: multiplies every channel count of the encoder. 1.0 is the stock network."""
    small_images: bool = False
    """Torchvision: 3x3 stride-1 stem without max-pool, for images of 64 px and less (the CIFAR ResNet)."""
    zero_init_residual: bool = False
    """Torchvision: every residual block starts as the identity (Goyal et al. 2017). The reference code does not do
    this."""
    drop_path: float = 0.0
    """Timm: share of samples that skip the last residual branch in training (stochastic depth); it falls linearly to 0
    at the first branch. DeiT uses 0.1 for vision transformers."""
    head: Literal["mlp", "linear"] = "mlp"
    """Projection head: mlp = Linear-ReLU-Linear, linear = one Linear. Evaluation drops it."""
    head_hidden: int = 0
    """Hidden width of the mlp head; 0 = the encoder's feature width, as in the reference."""
    head_dim: int = 128
    """Width of the embedding that the loss sees."""
    head_relu: bool = False
    """ReLU before the projection is normalised: classes then settle at right angles, as an orthogonal frame instead of
    a simplex, which is more robust to unequal class sizes. head_dim must be at least the number of classes."""

    @property
    def is_timm(self) -> bool:
        """Whether timm builds the encoder."""
        return self.encoder.startswith(TIMM)


@dataclass
class LossConfig:
    name: LossName = "varcon"
    """The loss. docs/losses.md says when to use which. A flag below that names a loss is read only by that loss, and by
    clop with that base."""
    temperature: float = 0.1
    """Divides the similarities of simclr, dcl, nscl, supcon, sincere, hscl, ssem and dhel. SupCon and SimCLR on
    ImageNet used 0.1, SimCLR on CIFAR and hscl 0.5, dhel 0.3."""
    supcon_reduce: Literal["out", "in"] = "out"
    """supcon: the mean over positives is outside the logarithm (better) or inside it."""
    include_own_positive: bool = False
    """nscl: include the positive in the denominator, as the reference code does; the paper leaves it out."""
    beta: float = 1.0
    """hscl: sharpness of the weights on hard negatives; 0 = equal weights. The authors' CIFAR-100 runs use 5."""
    alpha: float = 0.5
    """ssem: share of the self-supervised term, in [0, 1]. Larger values keep classes from collapsing; the authors use
    0.5."""
    kcl_t: float = 2.0
    """kcl: sharpness of the Gaussian kernel exp(-t |a - b|^2)."""
    kcl_gamma: float = 16.0
    """kcl: weight of uniformity relative to alignment."""
    clop_base: Literal["simclr", "dcl", "nscl", "supcon", "sincere", "hscl", "ssem", "dhel", "kcl", "varcon"] = "simclr"
    """clop: the loss to which the prototype term is added."""
    clop_weight: float = 1.0
    """clop: weight of the prototype term; the authors use 1."""
    label_smoothing: float = 0.0
    """cross_entropy, and varcon with terms nll or 2nll: share of the target that is spread over all classes."""
    tau1: float = 0.1
    """varcon: temperature of the class posterior (paper Eq. 8)."""
    eps: float = 0.02
    """varcon: half-width of the adaptive temperature; tau2 is in [tau1 - eps, tau1 + eps] (Eq. 13). 0 = no
    adaptation."""
    detach_centroids: bool = True
    """varcon: no gradient through the class centroids, as in the reference code; the paper's text leaves it open."""
    detach_target: bool = False
    """varcon: no gradient through tau2 into the target; the reference code lets it flow."""
    backend: Literal["auto", "closed", "reference", "triton"] = "auto"
    """closed: closed form in torch. reference: the paper's equations line by line. triton: one fused kernel, needs
    CUDA. auto: triton on CUDA if it supports the rows, else closed. All losses have these but cross_entropy, which is
    torch's."""
    terms: Literal["both", "kl", "nll", "2nll"] = "both"
    """varcon: terms of the loss (Eq. 7); the paper uses both. kl and nll are ablations; 2nll is the control whose
    gradient is nearly that of both."""
    leave_one_out: bool = False
    """varcon: leave each row out of its own centroid. The reference code includes it, which flatters batches with few
    rows per class."""
    learn_eps: bool = False
    """varcon: learn eps within [0, 0.8 tau1], starting at --loss.eps, as an early version of the reference code
    does."""
    prototype_momentum: float | None = None
    """varcon: use running means over the steps as centroids, with this momentum, for batches with few rows per class
    (0.9 averages over about ten steps). None: centroids of the batch, as in the paper."""

    @property
    def base(self) -> str:
        """The loss without prototypes: clop's base, otherwise the name."""
        return self.clop_base if self.name == "clop" else self.name

    @property
    def needs_labels(self) -> bool:
        """Whether every training image must have a label."""
        return self.base not in ("simclr", "dcl", "dhel", "kcl")

    @property
    def needs_other_class(self) -> bool:
        """A batch with images of one class alone gives no gradient. (Prototypes remember the other classes.)"""
        return self.base in ("nscl", "sincere", "hscl") or (self.base == "varcon" and self.prototype_momentum is None)


@dataclass
class MonitorConfig:
    nscl: bool = False
    """Log DCL and NSCL at temperature 1, their gap and its bound in every step, with any loss. Costs two forward passes
    of a contrastive loss; does not change the training."""


@dataclass
class TrainConfig:
    epochs: int = 200
    """Passes over the training images."""
    global_batch: int = 1024
    """Images per optimiser step over all processes; the loss sees num_views times as many rows."""
    lr: float = 0.5
    """Peak learning rate for this global batch, used as written unless lr-scale rescales it."""
    momentum: float = 0.9
    """Momentum of sgd and lars, beta1 of adamw."""
    weight_decay: float = 1e-4
    """L2 penalty on all parameters (decoupled for adamw); see decay-norm-and-bias for exceptions."""
    warmup_epochs: float = 10.0
    """Length of the linear warm-up from warmup-from to lr, in epochs; large-batch SGD diverges without it."""
    precision: Literal["auto", "fp32", "tf32", "bf16", "fp16"] = "auto"
    """Compute precision of encoder and head; the loss is always float32. auto = bf16 on CUDA, fp32 on the CPU. tf32:
    float32 with convolutions on TF32 tensor cores. fp16: with loss scaling."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto uses CUDA if it is available; the log names the choice."""
    threads: int = 0
    """CPU threads per process for the network; 0 = the cores of this machine, divided evenly among its processes."""
    batch_norm: Literal["local", "sync", "ghost"] = "local"
    """Which images share batch-norm statistics. local: those of a process, as in the reference code. sync: the global
    batch. ghost: groups of bn-group images, so that the result does not depend on the number of processes."""
    seed: int = 0
    """Seed of the initial weights, the sample order and the augmentation."""
    log_every: int = 10
    """Steps between two rows of metrics.jsonl; the training waits for the GPU only then."""
    val_every: int = 1
    """Epochs between two measurements of the held-out kNN accuracy (needs --data.val); 0 = never."""
    val_bank: int = 10_000
    """Largest number of training images that vote in that kNN, so that the accuracy curve stays cheap."""
    trackers: str = ""
    """Also send the figures of metrics.jsonl to: tensorboard, wandb, mlflow; separate several with commas."""
    profile: int = 0
    """Number of steps that torch.profiler traces on the first process, into OUT/profile/trace.json; 0 = none."""
    save_every: int = 0
    """Epochs between two kept checkpoints (checkpoints/epoch-NNN), 0 = none; checkpoints/last is written every
    epoch."""
    micro_batch: int = 0
    """Images per pass of a process through the network; 0 = all images of the process. It has the memory of a
    micro-batch and the gradient of the full batch, for one more forward pass. Needs --train.batch-norm ghost, or an
    encoder without batch norm."""
    bn_group: int = 0
    """Batch norm ghost: images per group, each with all its views. 128 = one GPU of the reference's run."""
    optimizer: Literal["sgd", "lars", "adamw"] = "sgd"
    """sgd: as in the reference code. lars: for batches above 4096; norms and biases are neither adapted nor decayed.
    adamw."""
    nesterov: bool = False
    """Nesterov's momentum for sgd and lars."""
    lars_trust: float = 0.001
    """lars: step of a tensor relative to its norm, at learning rate 1 (You et al. 2017)."""
    decay_norm_and_bias: bool = True
    """Apply weight decay also to norm scales, biases and what timm's networks exempt (position embeddings, class
    tokens), as the reference code does. lars never applies it to norms and biases."""
    lr_scale: Literal["none", "linear", "sqrt"] = "none"
    """Multiply lr by global-batch / 256 (linear, Goyal et al. 2017) or by its square root. The log shows the result."""
    schedule: Literal["cosine", "step", "epoch-cosine"] = "cosine"
    """Learning rate after the warm-up. cosine: per step, down to lr-end. step: multiplied by decay-factor after each of
    decay-epochs. epoch-cosine: that of the reference code, one value per epoch, counted from the first epoch; the
    warm-up ends on its curve."""
    lr_end: float = 0.0
    """Fraction of the peak learning rate at which a cosine ends."""
    warmup_from: float = 0.0
    """Learning rate at which the warm-up starts."""
    decay_epochs: tuple[int, ...] = (120, 160)
    """Schedule step: epochs after which the learning rate falls (default: those of the reference code, for 200
    epochs)."""
    decay_factor: float = 0.1
    """Schedule step: factor of the learning rate at each of decay-epochs."""
    resolution: str = ""
    """Side of the training views over the run, SIZE:SHARE,...: "160:0.7,192:0.2,224:0.1" trains 70 % of the epochs at
    160 px. Empty: --data.size throughout. Evaluation always uses --data.size."""
    ema: float = 0.0
    """Decay per step of a moving average of the weights; 0 = off. If on, the averaged encoder is evaluated and
    exported."""
    compile: Literal["off", "default", "cuda-graphs"] = "off"
    """torch.compile for encoder and head. cuda-graphs also records their kernels, for small batches on fast GPUs."""
    save_minutes: float = 1.0
    """Minutes between two saves of checkpoints/last within an epoch, written while training continues; 0 = never."""
    save_steps: int = 0
    """Steps between two such saves; 0 = never. A save happens at the next row of metrics.jsonl."""
    keep: int = 0
    """Number of checkpoints epoch-NNN to keep (the newest); 0 = all."""

    @property
    def tracker_names(self) -> tuple[str, ...]:
        """The names in `trackers`."""
        return tuple(name.strip() for name in self.trackers.split(",") if name.strip())


@dataclass
class Config:
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    out: Path = Path("runs/default")
    """Run folder. The same command on the same folder resumes the run; a different configuration is refused."""
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    monitor: MonitorConfig = field(default_factory=MonitorConfig)

    def validate(self) -> None:
        """Raise UserError, naming the flag, for the first value that no run can work with."""
        from fastvarcon.config_checks import check  # which reads these classes

        check(self)

    def flat(self) -> dict[str, object]:
        """All values as JSON scalars and lists, keyed like the flags: {"data.train": "train.beton", ...}."""
        return dict(_flatten(dataclasses.asdict(self)))

    def save(self, path: Path) -> None:
        """Write config.json, whole or not at all."""
        write_json(path, self.flat())

    @classmethod
    def load(cls, path: Path) -> Config:
        """Read what `save` wrote. Raises UserError for a missing or foreign file."""
        return cls.from_flat(read_flat(path), path)

    @classmethod
    def from_flat(cls, flat: dict[str, object], origin: Path) -> Config:
        """Raises UserError for an unknown key, and for a value of another type or one that no encoder could have."""
        from fastvarcon.config_checks import check_encoder  # which reads these classes

        config = cls()
        for key, value in flat.items():
            *groups, name = key.split(".")
            target: Any = config
            hints = typing.get_type_hints(cls)
            for group in groups:
                target = getattr(target, group) if group in hints else None
                hints = typing.get_type_hints(type(target)) if dataclasses.is_dataclass(target) else {}
            if name not in hints or dataclasses.is_dataclass(hints[name]):
                raise UserError(
                    f"{origin} has the unknown key {key!r}: it was written by another version of fastvarcon"
                )
            setattr(target, name, _from_json(value, hints[name], f"{origin}: {key}"))
        try:
            check_encoder(config)
        except UserError as error:
            raise UserError(f"{origin}: {error}") from None
        return config


def read_flat(path: Path) -> dict[str, object]:
    """The keys and values of a config.json as written. Raises UserError for a missing or damaged file."""
    if not path.exists():
        raise UserError(f"{path} is missing: {path.parent} is not a run folder")
    return read_json(path, "put back the one that the training wrote")


def _flatten(tree: dict, prefix: str = "") -> Iterator[tuple[str, object]]:
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield (
                prefix + key,
                str(value) if isinstance(value, Path) else list(value) if isinstance(value, tuple) else value,
            )


def _from_json(value: Any, hint: Any, where: str) -> Any:
    """A JSON value as the type that `hint` states. Raises UserError if it has another type."""
    options = typing.get_args(hint)
    if typing.get_origin(hint) is Literal:
        fits = value in options
    elif type(None) in options:
        [given] = [option for option in options if option is not type(None)]
        return None if value is None else _from_json(value, given, where)
    elif hint is Path:
        fits = isinstance(value, str) and "\0" not in value
        return Path(value) if fits else _refuse(value, where)
    elif Ellipsis in options:
        fits = isinstance(value, list) and all(_is(v, options[0]) for v in value)
        return tuple(value) if fits else _refuse(value, where)
    elif typing.get_origin(hint) is tuple:
        fits = isinstance(value, list) and len(value) == len(options) and all(map(_is, value, options))
        return tuple(value) if fits else _refuse(value, where)
    else:
        fits = _is(value, hint)
    return value if fits else _refuse(value, where)


def _is(value: object, kind: type) -> bool:
    """The value is of this very type, or a whole number for a float; numbers are finite and fit into 64 bits."""
    if isinstance(value, bool) or kind not in (int, float):
        return type(value) is kind
    if type(value) is int:
        return abs(value) < 2**63
    return kind is float and type(value) is float and math.isfinite(value)


def _refuse(value: object, where: str) -> NoReturn:
    raise UserError(f"{where} has a value that no version of fastvarcon writes: {reprlib.repr(value)}")
