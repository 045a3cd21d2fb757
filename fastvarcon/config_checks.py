"""Which settings no run could work with, and what a user is told about each."""

from __future__ import annotations

from fastvarcon.config import (
    LARGEST_RESIZE,
    LARGEST_VIEW,
    RESNETS,
    TRACKERS,
    WIDEST,
    Config,
    DataConfig,
    LossConfig,
    ModelConfig,
    SamplingConfig,
    TrainConfig,
)
from fastvarcon.errors import UserError

Rules = list[tuple[bool, str]]
"""What must hold, and what to say otherwise."""


def check(config: Config) -> None:
    """Raise UserError, naming the flag, for the first rule that does not hold."""
    data, sampling, model, loss, train = config.data, config.sampling, config.model, config.loss, config.train
    rules = [
        (data.train is not None, "--data.train is missing: give the file that `fastvarcon convert` wrote"),
        *_view_rules(data),
        *_data_rules(data, sampling, train),
        *_model_rules(model),
        *_loss_rules(config),
        *_varcon_rules(loss),
        *_train_rules(train, data),
        *_step_rules(train, model),
    ]
    _require(rules)


def check_encoder(config: Config) -> None:
    """Raise UserError for the first rule that does not hold of those that say what an encoder is and what it sees.

    A configuration that is read is believed no more than a command line: an encoder is built as it says.
    """
    _require([*_view_rules(config.data), *_model_rules(config.model)])


def check_views(data: DataConfig) -> None:
    """Raise UserError for a size or normalisation that no view could have."""
    _require(_view_rules(data))


def _require(rules: Rules) -> None:
    for holds, message in rules:
        if not holds:
            raise UserError(message)


def _view_rules(data: DataConfig) -> Rules:
    """Size and normalisation of a view."""
    return [
        (data.num_views >= 1, f"--data.num-views must be at least 1, got {data.num_views}"),
        (1 <= data.size <= LARGEST_VIEW, f"--data.size must lie between 1 and {LARGEST_VIEW} pixels, got {data.size}"),
        (
            data.size <= data.eval_resize <= LARGEST_RESIZE,
            f"--data.eval-resize ({data.eval_resize}) must lie between --data.size ({data.size}) and {LARGEST_RESIZE}",
        ),
        (min(data.std) > 0, f"--data.std must be positive, got {data.std}"),
    ]


def _data_rules(data: DataConfig, sampling: SamplingConfig, train: TrainConfig) -> Rules:
    """Threads, and who is in a batch."""
    return [
        (data.workers >= 0, f"--data.workers must be 0 (all cores) or more, got {data.workers}"),
        (data.prefetch >= 1, f"--data.prefetch must be at least 1, got {data.prefetch}"),
        (data.prefetch_mb >= 1, f"--data.prefetch-mb must be at least 1, got {data.prefetch_mb}"),
        (
            1 <= sampling.block_mb <= sampling.window_mb,
            f"--sampling.block-mb ({sampling.block_mb}) must lie between 1 and --sampling.window-mb "
            f"({sampling.window_mb})",
        ),
        (sampling.per_class >= 0, f"--sampling.per-class must be 0 or more, got {sampling.per_class}"),
        (
            sampling.per_class == 0 or sampling.order == "shuffle",
            "--sampling.per-class has an order of its own: leave --sampling.order at shuffle",
        ),
        (
            sampling.per_class == 0 or train.global_batch % sampling.per_class == 0,
            f"--train.global-batch ({train.global_batch}) must be a multiple of --sampling.per-class "
            f"({sampling.per_class})",
        ),
    ]


def _model_rules(model: ModelConfig) -> Rules:
    """The encoder, what belongs to one kind of it, and the head."""
    own = [
        ("--model.width 1", model.width == 1.0),
        ("--model.no-small-images", not model.small_images),
        ("--model.no-zero-init-residual", not model.zero_init_residual),
    ]
    needed = [flag for flag, given in own if not given]
    return [
        (
            model.is_timm or model.encoder in RESNETS,
            f"--model.encoder {model.encoder} is not known: choose from {', '.join(RESNETS)}, or timm/NAME",
        ),
        (0 < model.width <= WIDEST, f"--model.width must be positive and at most {WIDEST:g}, got {model.width}"),
        (
            not (model.is_timm and needed),
            f"width, small-images and zero-init-residual shape torchvision's ResNets, not {model.encoder}: give "
            f"{' '.join(needed)}",
        ),
        (0 <= model.drop_path < 1, f"--model.drop-path must lie in [0, 1), got {model.drop_path}"),
        (
            model.is_timm or model.drop_path == 0,
            f"--model.drop-path is for timm's networks, not for {model.encoder}: leave it out",
        ),
        (
            model.head_dim >= 1 and model.head_hidden >= 0,
            "--model.head-dim must be at least 1, head-hidden 0 or more",
        ),
    ]


def _loss_rules(config: Config) -> Rules:
    """What a loss needs of its own settings, of views and of batches."""
    data, sampling, loss, train = config.data, config.sampling, config.loss, config.train
    return [
        (loss.temperature > 0, f"--loss.temperature must be positive, got {loss.temperature}"),
        (loss.beta >= 0, f"--loss.beta must be 0 or more, got {loss.beta}"),
        (0 <= loss.alpha <= 1, f"--loss.alpha must lie between 0 and 1, got {loss.alpha}"),
        (loss.kcl_t > 0, f"--loss.kcl-t must be positive, got {loss.kcl_t}"),
        (
            min(loss.kcl_gamma, loss.clop_weight) >= 0,
            "--loss.kcl-gamma and --loss.clop-weight must be 0 or more",
        ),
        (
            0 <= loss.label_smoothing < 1,
            f"--loss.label-smoothing must lie in [0, 1), got {loss.label_smoothing}",
        ),
        (
            loss.base != "varcon" or loss.label_smoothing == 0 or loss.terms in ("nll", "2nll"),
            f"--loss.label-smoothing goes with --loss.terms nll or 2nll, not {loss.terms}: VarCon smooths its "
            "target by tau2, set --loss.eps and --loss.tau1",
        ),
        (
            data.num_views >= 2 or loss.base in ("varcon", "supcon", "sincere", "hscl", "cross_entropy"),
            f"--loss.name {loss.name} compares views of an image: --data.num-views must be 2 or more",
        ),
        (
            data.num_views >= 2 or not config.monitor.nscl,
            "--monitor.nscl compares views of an image: --data.num-views must be 2 or more",
        ),
        (
            sampling.per_class < train.global_batch or not loss.needs_other_class,
            f"--loss.name {loss.name} needs several classes in a batch: --sampling.per-class "
            f"({sampling.per_class}) must be smaller than --train.global-batch ({train.global_batch})",
        ),
        (
            train.global_batch > 1 or not loss.needs_other_class,
            f"--loss.name {loss.name} needs several classes in a batch: --train.global-batch must be 2 or more",
        ),
        (
            not sampling.bind or (sampling.per_class == 0 and sampling.order == "shuffle"),
            "--sampling.bind goes with --sampling.order shuffle and without --sampling.per-class",
        ),
    ]


def _varcon_rules(loss: LossConfig) -> Rules:
    """VarCon's temperatures and prototypes."""
    return [
        (loss.eps >= 0, f"--loss.eps must be 0 or more, got {loss.eps}"),
        (
            loss.tau1 > loss.eps,
            f"--loss.tau1 ({loss.tau1}) must be larger than --loss.eps ({loss.eps}): tau2 would not be positive",
        ),
        (
            not loss.learn_eps or loss.eps <= 0.8 * loss.tau1,
            f"--loss.learn-eps starts from --loss.eps ({loss.eps}), which must be at most 0.8 x --loss.tau1",
        ),
        (
            not (loss.learn_eps and loss.detach_target),
            "--loss.learn-eps learns through the target: not with --loss.detach-target",
        ),
        (
            loss.prototype_momentum is None or 0 <= loss.prototype_momentum < 1,
            f"--loss.prototype-momentum must lie in [0, 1), got {loss.prototype_momentum}",
        ),
        (
            loss.prototype_momentum is None or not loss.leave_one_out,
            "--loss.prototype-momentum holds rows of earlier steps: not with --loss.leave-one-out",
        ),
    ]


def _train_rules(train: TrainConfig, data: DataConfig) -> Rules:
    """Length, optimiser, validation and logs."""
    return [
        (train.epochs >= 1, f"--train.epochs must be at least 1, got {train.epochs}"),
        (train.global_batch >= 1, f"--train.global-batch must be at least 1, got {train.global_batch}"),
        (train.lr > 0, f"--train.lr must be positive, got {train.lr}"),
        (0 <= train.momentum < 1, f"--train.momentum must lie in [0, 1), got {train.momentum}"),
        (train.weight_decay >= 0, f"--train.weight-decay must be 0 or more, got {train.weight_decay}"),
        (
            0 <= train.warmup_epochs <= train.epochs,
            f"--train.warmup-epochs ({train.warmup_epochs:g}) must lie between 0 and --train.epochs "
            f"({train.epochs}): give --train.warmup-epochs {train.epochs / 10:g} as well",
        ),
        (train.threads >= 0, f"--train.threads must be 0 (all cores) or more, got {train.threads}"),
        (train.log_every >= 1, f"--train.log-every must be at least 1, got {train.log_every}"),
        (0 <= train.seed < 2**63, f"--train.seed must lie between 0 and 2**63 - 1, got {train.seed}"),
        (train.global_batch * data.num_views > 1, "--train.global-batch 1 with one view leaves nothing to compare"),
        (min(train.val_every, train.save_every) >= 0, "--train.val-every and --train.save-every must be 0 or more"),
        (train.profile >= 0, f"--train.profile must be 0 (off) or more, got {train.profile}"),
        (
            set(train.tracker_names) <= set(TRACKERS),
            f"--train.trackers {train.trackers!r}: choose from {', '.join(TRACKERS)}, with commas between several",
        ),
        (train.val_bank >= 1, f"--train.val-bank must be at least 1, got {train.val_bank}"),
    ]


def _step_rules(train: TrainConfig, model: ModelConfig) -> Rules:
    """How steps are made, scheduled and saved."""
    ghost = train.batch_norm == "ghost"
    return [
        (
            0 <= train.micro_batch <= train.global_batch,
            f"--train.micro-batch ({train.micro_batch}) must not be larger than --train.global-batch "
            f"({train.global_batch}): lower it, or leave it at 0",
        ),
        (
            ghost or train.micro_batch == 0 or model.is_timm,  # training.network looks for batch norm in timm's
            f"--train.micro-batch would split the batches over which --train.batch-norm {train.batch_norm} takes its "
            "statistics: use --train.batch-norm ghost and a --train.bn-group that divides the micro-batch",
        ),
        (not ghost or train.bn_group >= 1, "--train.batch-norm ghost needs --train.bn-group: images in a group"),
        (
            ghost or train.bn_group == 0,
            f"--train.bn-group belongs to --train.batch-norm ghost, not to {train.batch_norm}: drop it",
        ),
        (
            not train.nesterov or (train.optimizer != "adamw" and train.momentum > 0),
            "--train.nesterov needs --train.optimizer sgd or lars and a positive --train.momentum",
        ),
        (train.lars_trust > 0, f"--train.lars-trust must be positive, got {train.lars_trust}"),
        (0 <= train.lr_end <= 1, f"--train.lr-end must be a fraction of the peak, got {train.lr_end}"),
        (train.warmup_from >= 0, f"--train.warmup-from must be 0 or more, got {train.warmup_from}"),
        (
            train.schedule != "step" or max(train.decay_epochs, default=train.epochs) < train.epochs,
            f"--train.schedule step: --train.decay-epochs {' '.join(map(str, train.decay_epochs))} must lie before the "
            f"end of the run (--train.epochs {train.epochs})",
        ),
        (train.decay_factor > 0, f"--train.decay-factor must be positive, got {train.decay_factor}"),
        (0 <= train.ema < 1, f"--train.ema must lie in [0, 1), got {train.ema}"),
        (
            min(train.save_minutes, train.save_steps, train.keep) >= 0,
            "--train.save-minutes, --train.save-steps and --train.keep must be 0 or more",
        ),
        (
            train.keep == 0 or train.save_every > 0,
            "--train.keep says how many checkpoints of --train.save-every stay: give that too",
        ),
    ]
