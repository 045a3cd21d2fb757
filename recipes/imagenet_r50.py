"""VarCon on ImageNet-1k: ResNet-50, 224 px, 200 epochs, two views, global batch 4096, tau1 0.1, eps 0.02.

Data:      fastvarcon convert imagenet/train train.beton --max-resolution 400
           fastvarcon convert imagenet/val val.beton --max-resolution 400
Command:   accelerate launch recipes/imagenet_r50.py --data.train train.beton --data.val val.beton --out runs/r50
Hardware:  eight GPUs of 80 GB (4096 images are 1024 views a GPU)
Expected:  not measured yet. The paper reports 79.36 % linear top-1 for ResNet-50 and 200 epochs (arXiv 2506.07413).
Wall time: not measured yet
Data wait: not measured yet

Progressive resolution, not measured yet either: the same command with a run folder of its own and
    --train.resolution 160:0.74,176:0.12,192:0.14 --out runs/r50-progressive
These are the steps of ffcv's ResNet-50 (88 epochs: 160 px for 65, up to 192 px at 76), evaluated at 224 px, which makes
up for crops that show objects larger (Touvron et al. 2019). The network computes 0.55 times as much as at 224 px.

The paper's optimiser settings for ImageNet are not public. These follow the large-batch convention of Goyal et al.
2017 for SGD: learning rate 0.1 per 256 images, here 1.6; ten epochs of warm-up; weight decay 1e-4; identity blocks at
the start. The loss is the mean over the global batch with its true gradient, so these values mean the same for every
number of GPUs.
"""

from pathlib import Path

from fastvarcon.config import Config, DataConfig, LossConfig, ModelConfig, TrainConfig
from fastvarcon.training.recipe import run_recipe

DEFAULTS = Config(
    data=DataConfig(size=224, eval_resize=256),
    model=ModelConfig(encoder="resnet50", zero_init_residual=True),
    loss=LossConfig(name="varcon", tau1=0.1, eps=0.02),
    train=TrainConfig(
        epochs=200, global_batch=4096, lr=1.6, weight_decay=1e-4, warmup_epochs=10, val_every=5, save_every=50
    ),
    out=Path("runs/imagenet_r50"),
)

if __name__ == "__main__":
    run_recipe(DEFAULTS, __doc__)
