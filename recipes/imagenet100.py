"""VarCon on ImageNet-100, the hundred classes of ImageNet that Tian et al. chose (CMC, 2019): ResNet-50, 224 px.

Data:      recipes/imagenet100.txt names the classes, as github.com/HobbitLong/CMC publishes them:
               fastvarcon convert imagenet/train in100-train.beton --preset 400 --classes recipes/imagenet100.txt
               fastvarcon convert imagenet/val in100-val.beton --preset 400 --classes recipes/imagenet100.txt
Command:   accelerate launch recipes/imagenet100.py --data.train in100-train.beton --data.val in100-val.beton
Hardware:  four GPUs of 80 GB (1024 images are 512 views a GPU); on one of them add --train.batch-norm ghost
           --train.bn-group 256 --train.micro-batch 256, which has the same gradient
Expected:  not measured yet. The paper's figure and settings for ImageNet-100 are not public.
Wall time: not measured yet
Data wait: not measured yet

The optimiser follows Goyal et al. 2017 as in imagenet_r50.py: learning rate 0.1 per 256 images, here 0.4; ten epochs of
warm-up; weight decay 1e-4; identity blocks at the start. A batch has about ten images of each class.
"""

from pathlib import Path

from fastvarcon.config import Config, DataConfig, ModelConfig, TrainConfig
from fastvarcon.training.recipe import run_recipe

DEFAULTS = Config(
    data=DataConfig(size=224, eval_resize=256),
    model=ModelConfig(encoder="resnet50", zero_init_residual=True),
    train=TrainConfig(epochs=200, global_batch=1024, lr=0.4, weight_decay=1e-4, warmup_epochs=10, val_every=5),
    out=Path("runs/imagenet100"),
)

if __name__ == "__main__":
    run_recipe(DEFAULTS, __doc__)
