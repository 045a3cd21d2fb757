"""VarCon on CIFAR-100 at 32 px, ResNet-50 with the CIFAR stem: the reference code's documented run, restated.

Data:      fastvarcon convert cifar-100-python cifar100-train.beton --split train --mode raw
           fastvarcon convert cifar-100-python cifar100-val.beton --split test --mode raw
Command:   accelerate launch recipes/cifar100.py --data.train cifar100-train.beton --data.val cifar100-val.beton
Hardware:  one to eight GPUs: the result does not depend on their number. On one small GPU add --train.micro-batch 128
Expected:  not measured yet. The paper reports 78.29 % linear top-1 (arXiv 2506.07413).
Wall time: not measured yet
Data wait: not measured yet

The settings are those that the reference's eight GPUs effectively used (fastvarcon/training/presets.py says why they
differ from its command line): learning rate 0.0625, weight decay 8e-4, batch norm over groups of 128 images.
The numbers of its command line with the true gradient (docs/maths/varcon.md#gradient-scale) are
    --train.lr 0.5 --train.weight-decay 1e-4 --train.warmup-from 0.01 --out runs/cifar100-as-published
"""

from pathlib import Path

from fastvarcon.config import Config, DataConfig, ModelConfig
from fastvarcon.training.presets import reference
from fastvarcon.training.recipe import run_recipe

TRAIN = reference(gpus=8)
TRAIN.val_every = 5

DEFAULTS = Config(
    data=DataConfig(size=32, eval_resize=32, mean=(0.5071, 0.4867, 0.4408), std=(0.2675, 0.2565, 0.2761)),
    model=ModelConfig(encoder="resnet50", small_images=True),
    train=TRAIN,
    out=Path("runs/cifar100"),
)

if __name__ == "__main__":
    run_recipe(DEFAULTS, __doc__)
