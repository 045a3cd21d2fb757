"""Settings of other people's runs in the terms of this trainer."""

from __future__ import annotations

from fastvarcon.config import TrainConfig


def reference(gpus: int = 8) -> TrainConfig:
    """What the reference code's CIFAR-100 run really does, for any number of processes.

    docs/maths/varcon.md#the-reference-run, and docs/maths/varcon.md#gradient-scale for why it differs from its command.

    Its command says learning rate 0.5 and weight decay 1e-4. On W GPUs its gradient is 1/W of that of the mean over
    the global batch, and with momentum SGD (gradient / W, lr, wd) is (gradient, lr / W, W wd): on eight GPUs 0.0625
    and 8e-4, a warm-up from 0.00125 to 0.062116 and a last epoch at 6.25e-5. Batch norm is over the 128 images of a
    GPU in both views. Its fp16 is left to --train.precision; 848 of 50,000 images drop out of each epoch here too.
    """
    return TrainConfig(
        epochs=200,
        global_batch=1024,
        lr=0.5 / gpus,
        momentum=0.9,
        weight_decay=1e-4 * gpus,
        warmup_epochs=10,
        warmup_from=0.01 / gpus,
        schedule="epoch-cosine",
        lr_end=0.1**3,
        batch_norm="ghost",
        bn_group=1024 // gpus,
    )
