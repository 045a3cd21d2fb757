"""Every setting of a run, with its default, its unit and the reason for the default.

A recipe is an instance of `Config`; its command line mirrors the fields (`--train.epochs 200`). The resolved values are
written to `config.json` of the run folder and read back by evaluation and resume.
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
"""Begins the name of an encoder that the timm package builds."""


@dataclass
class DataConfig:
    train: Path | None = None
    """Training images: a .beton file, a pattern of its shards ("train-*.beton") or a folder of tar shards, all made by
    `fastvarcon convert`; for backend folder an image folder."""
    val: Path | None = None
    """Held-out images of the same classes, for the accuracy curve during training and for `fastvarcon eval`."""
    backend: BackendName = "cpu"
    """Who decodes, once per image. cpu: threads. resident: decodes all before the first step and keeps it in memory.
    nvjpeg: the GPU. dali: a DALI pipeline. ffcv: ffcv's own loader. folder: PIL, the slow reference."""
    keep: Literal["auto", "device", "pinned", "shared"] = "auto"
    """Backend resident: where the decoded images lie. shared: one host copy for all processes of a machine."""
    on_bad_image: Literal["stop", "replace"] = "stop"
    """What a broken image does: end the run, or be replaced by the next image of its class and reported."""
    policy: PolicyName = "simaugment"
    """Augmentation. simaugment: the SupCon/VarCon recipe, crop .2-1, flip, colour jitter, grey. simclr: stronger, with
    blur. nscl-cifar: simaugment with crops from .08. autoaugment, randaugment: torchvision's, behind crop and flip.
    stacked-randaugment: within simclr. crop-flip. crop: no flip, for digits. eval: none, the centre crop."""
    interpolation: Interpolation = "bilinear"
    """Filter of the resize, always antialiased, in training and evaluation. bicubic is sharper and costs more."""
    num_views: int = 2
    """Views made of each image in a step; VarCon and SupCon use two."""
    size: int = 224
    """Side of a view in pixels."""
    eval_resize: int = 256
    """Evaluation resizes the shorter side to this many pixels, then crops the centre `size` x `size`."""
    mean: Triple = (0.485, 0.456, 0.406)
    """Per-channel mean in [0, 1] units that normalisation subtracts (default: ImageNet)."""
    std: Triple = (0.229, 0.224, 0.225)
    """Per-channel standard deviation in [0, 1] units that normalisation divides by (default: ImageNet)."""
    workers: int = 0
    """Decoding threads per process; 0 = an even share of the cores for each process of this machine."""
    prefetch: int = 2
    """Batches prepared ahead. Two hide the jitter of decoding; more only costs memory."""
    prefetch_mb: int = 1024
    """MB of prepared views at most; one batch is always prepared."""

    @property
    def train_file(self) -> Path:
        """`train` of a configuration that was validated."""
        assert self.train is not None, "validate comes first"
        return self.train


@dataclass
class SamplingConfig:
    order: Literal["shuffle", "block"] = "shuffle"
    """shuffle: a uniform permutation every epoch. block: for files larger than memory, sequential reads of blocks in
    random order, mixed within a window."""
    block_mb: int = 16
    """Order block: MB read in one go; enough to hide the seek of a disk or a network file system."""
    window_mb: int = 1024
    """Order block: MB of the file that are mixed together. The page cache holds two windows."""
    per_class: int = 0
    """Images that every class present in a batch has in it (or a multiple); 0 = whatever chance brings. The global
    batch must be a multiple of it."""
    bind: bool = False
    """One fixed image of every class in each global batch, in its last places: every pair of classes then meets in
    every step, also rare ones. For few classes next to the batch; order shuffle only."""


@dataclass
class ModelConfig:
    encoder: str = "resnet50"
    """resnet18, resnet34, resnet50 or resnet101: torchvision's; the paper's figures use resnet50. timm/NAME: any model
    of the timm package, timm/vit_small_patch16_224 for instance."""
    width: float = 1.0
    """Torchvision: multiplies every channel count of the encoder. 1.0 is the stock network."""
    small_images: bool = False
    """Torchvision: 3x3 stride-1 stem without max-pool, for images of 64 px and less (the CIFAR ResNet)."""
    zero_init_residual: bool = False
    """Torchvision: start every residual block as the identity (Goyal et al. 2017). The reference code does not."""
    drop_path: float = 0.0
    """Timm: share of samples for which the last residual branch is left out in training (stochastic depth), falling to
    0 at the first. DeiT uses 0.1 for vision transformers."""
    head: Literal["mlp", "linear"] = "mlp"
    """Projection head: mlp = Linear-ReLU-Linear, linear = one Linear. It is dropped for evaluation."""
    head_hidden: int = 0
    """Hidden width of the mlp head; 0 = the encoder's feature width, as in the reference."""
    head_dim: int = 128
    """Width of the embedding that the loss sees."""
    head_relu: bool = False
    """ReLU before the projection is normalised: classes then settle at right angles, an orthogonal frame in the place
    of a simplex, which holds better for unequal classes. Needs head_dim of at least the number of classes."""

    @property
    def is_timm(self) -> bool:
        """The encoder is one of timm's."""
        return self.encoder.startswith(TIMM)


@dataclass
class LossConfig:
    name: LossName = "varcon"
    """Objective. docs/losses.md says when to use which. The flags below that name a loss are read by it alone."""
    temperature: float = 0.1
    """Divides the similarities of simclr, dcl, nscl, supcon, sincere, hscl, ssem and dhel. 0.1: SupCon and ImageNet
    SimCLR; SimCLR on CIFAR and hscl used 0.5, dhel 0.3."""
    supcon_reduce: Literal["out", "in"] = "out"
    """supcon: mean over positives outside the logarithm (the better one) or inside."""
    include_own_positive: bool = False
    """nscl: the positive joins the denominator, as in the reference code; the paper leaves it out."""
    beta: float = 1.0
    """hscl: sharpness of the weights on hard negatives; 0 = all weigh the same. The authors' CIFAR-100 runs use 5."""
    alpha: float = 0.5
    """ssem: share of the self-supervised term, in [0, 1]. Larger keeps classes from collapsing; 0.5 is the authors'."""
    kcl_t: float = 2.0
    """kcl: sharpness of the Gaussian kernel exp(-t |a - b|^2)."""
    kcl_gamma: float = 16.0
    """kcl: weight of uniformity against alignment."""
    clop_base: Literal["simclr", "dcl", "nscl", "supcon", "sincere", "hscl", "ssem", "dhel", "kcl", "varcon"] = "simclr"
    """clop: the loss that the prototype term is added to."""
    clop_weight: float = 1.0
    """clop: weight of the prototype term; 1 is the authors'."""
    label_smoothing: float = 0.0
    """cross_entropy, and varcon with terms nll or 2nll: share of the target spread over all classes."""
    tau1: float = 0.1
    """Temperature of the class posterior (paper Eq. 8)."""
    eps: float = 0.02
    """Half-width of the adaptive temperature: tau2 lies in [tau1 - eps, tau1 + eps] (Eq. 13). 0 = no adaptation."""
    detach_centroids: bool = True
    """No gradient through the class centroids, as in the reference code; the paper's text leaves it open."""
    detach_target: bool = False
    """No gradient through tau2 into the target; the reference code lets it flow."""
    backend: Literal["auto", "closed", "reference", "triton"] = "auto"
    """closed: closed form in torch. reference: the paper's equations line by line. triton: one fused kernel, needs
    CUDA. auto: the fastest one. kcl, dhel, ssem and the like all have them; cross_entropy is torch's own."""
    terms: Literal["both", "kl", "nll", "2nll"] = "both"
    """Terms of the loss (Eq. 7) that count; the paper has both. kl and nll are its ablations, 2nll the control whose
    gradient is nearly that of both."""
    leave_one_out: bool = False
    """A row is no part of its own centroid. The reference code keeps it in, which flatters batches with few rows a
    class."""
    learn_eps: bool = False
    """eps is learnt within [0, 0.8 tau1], beginning at --loss.eps, as in an early version of the reference code."""
    prototype_momentum: float | None = None
    """Centroids are running means over the steps with this momentum, for batches with few rows a class (0.9 remembers
    ten steps). None: those of the batch alone, as in the paper."""

    @property
    def base(self) -> str:
        """The loss that is compared with others: clop's base, otherwise the name."""
        return self.clop_base if self.name == "clop" else self.name

    @property
    def needs_labels(self) -> bool:
        """Every training image must have a label."""
        return self.base not in ("simclr", "dcl", "dhel", "kcl")


@dataclass
class MonitorConfig:
    nscl: bool = False
    """Log DCL and NSCL at temperature 1, their gap and its bound in every step, whatever is trained. Costs two forward
    passes of a contrastive loss; changes nothing of the training."""


@dataclass
class TrainConfig:
    epochs: int = 200
    """Passes over the training images."""
    global_batch: int = 1024
    """Images per optimiser step over all processes; the loss sees num_views times as many rows."""
    lr: float = 0.5
    """Peak learning rate for this global batch. It is used as written unless lr-scale asks for more."""
    momentum: float = 0.9
    """Momentum of sgd and lars, beta1 of adamw."""
    weight_decay: float = 1e-4
    """L2 penalty on all parameters (decoupled for adamw); see decay-norm-and-bias."""
    warmup_epochs: float = 10.0
    """Length of the linear warm-up from 0 to lr, in epochs; large-batch SGD diverges without it."""
    precision: Literal["auto", "fp32", "tf32", "bf16", "fp16"] = "auto"
    """Compute precision of encoder and head; the loss is always float32. auto = bf16 on CUDA, fp32 on the CPU. tf32:
    float32 whose convolutions use TF32 tensor cores. fp16 scales its loss."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto takes CUDA where there is one and names its choice in the log."""
    threads: int = 0
    """CPU threads per process for the network; 0 = an even share of the cores."""
    batch_norm: Literal["local", "sync", "ghost"] = "local"
    """What shares batch-norm statistics. local: the images of a process, as the reference ran. sync: the global batch.
    ghost: every bn-group images, so that the result does not depend on the number of processes."""
    seed: int = 0
    """Seeds weights, sample order and augmentation."""
    log_every: int = 10
    """Steps between two rows of metrics.jsonl; the GPU is only waited for then."""
    val_every: int = 1
    """Epochs between two held-out kNN accuracies (needs --data.val); 0 = never."""
    val_bank: int = 10_000
    """Training images at most that vote in that kNN: an accuracy curve must not cost an epoch."""
    trackers: str = ""
    """Where the figures of metrics.jsonl go as well: tensorboard, wandb, mlflow, several with commas between them."""
    profile: int = 0
    """Steps of the first process that torch.profiler traces, into OUT/profile/trace.json; 0 = none."""
    save_every: int = 0
    """Epochs between two kept checkpoints (checkpoints/epoch-NNN); checkpoints/last is written every epoch."""
    micro_batch: int = 0
    """Images that a process sends through the network at a time; 0 = its whole share. Memory is that of a micro-batch,
    the gradient that of the whole batch, for one more forward pass. Needs --train.batch-norm ghost, or an encoder
    without batch norm."""
    bn_group: int = 0
    """Batch norm ghost: images, with all their views, in a group. 128 is one GPU of the reference's run."""
    optimizer: Literal["sgd", "lars", "adamw"] = "sgd"
    """sgd: the reference. lars: for batches beyond 4096; norms and biases are neither adapted nor decayed. adamw."""
    nesterov: bool = False
    """Nesterov's momentum for sgd and lars."""
    lars_trust: float = 0.001
    """Lars: step of a tensor relative to its norm at learning rate 1 (You et al. 2017)."""
    decay_norm_and_bias: bool = True
    """Weight decay also on norm scales, biases and what timm's networks exempt (position embeddings, class tokens), as
    the reference does. Lars never does it."""
    lr_scale: Literal["none", "linear", "sqrt"] = "none"
    """Multiply lr by global-batch / 256 (Goyal et al. 2017) or by its root. The log states the result."""
    schedule: Literal["cosine", "step", "epoch-cosine"] = "cosine"
    """After the warm-up. cosine: per step, to lr-end. step: times decay-factor at each of decay-epochs. epoch-cosine:
    the reference code's, one value an epoch, counted from the first epoch, which the warm-up joins."""
    lr_end: float = 0.0
    """Fraction of the peak at which a cosine ends."""
    warmup_from: float = 0.0
    """Learning rate at which the warm-up begins."""
    decay_epochs: tuple[int, ...] = (120, 160)
    """Schedule step: epochs after which the learning rate falls (the reference's, for 200 epochs)."""
    decay_factor: float = 0.1
    """Schedule step: what it is multiplied by."""
    resolution: str = ""
    """Side of the training views over the run, SIZE:SHARE,...: "160:0.7,192:0.2,224:0.1" trains 70 % of the epochs at
    160 px. Empty: --data.size throughout. Evaluation stays at --data.size."""
    ema: float = 0.0
    """Decay a step of a moving average of the weights; 0 = none. Where there is one, it is the encoder that is
    evaluated and exported."""
    compile: Literal["off", "default", "cuda-graphs"] = "off"
    """torch.compile of encoder and head; cuda-graphs also records their kernels, for small batches on fast GPUs."""
    save_minutes: float = 1.0
    """Minutes between two saves of checkpoints/last within an epoch, written while the training goes on; 0 = never."""
    save_steps: int = 0
    """The same in steps; 0 = never. Saves happen at the next row of metrics.jsonl."""
    keep: int = 0
    """Checkpoints epoch-NNN to keep, the newest; 0 = all."""

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
    """Run folder. The same command on the same folder resumes; a different configuration is refused."""
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    monitor: MonitorConfig = field(default_factory=MonitorConfig)

    def validate(self) -> None:
        """Raise UserError, naming the flag, for every value that no run could work with."""
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
    """A JSON value as the type that `hint` states. Raises UserError if it is of another."""
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
