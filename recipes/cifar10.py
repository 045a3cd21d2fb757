"""VarCon on CIFAR-10 at 32 px, ResNet-18 with the CIFAR stem.

Data:      an image folder of the 50,000 training and 10,000 test images, converted once:
               fastvarcon convert cifar10/train cifar10-train.beton --mode raw
               fastvarcon convert cifar10/test cifar10-val.beton --mode raw
Command:   accelerate launch recipes/cifar10.py --data.train cifar10-train.beton --data.val cifar10-val.beton
Hardware:  one GPU
Expected:  not measured yet as it stands; a quarter of the width, 5,000 images and 20 epochs on two CPU cores give
           linear 56.1 %, kNN 54.8 %, against 35.6 % for raw pixels
           (row cifar10-cpu of benchmarks/results/runs.csv, with its command; n = 1)
Wall time: not measured yet as it stands; five minutes for the row above
Data wait: not measured yet as it stands; 0.4 % in the row above
"""

from pathlib import Path

from fastvarcon.config import Config, DataConfig, ModelConfig, TrainConfig
from fastvarcon.training.recipe import run_recipe

DEFAULTS = Config(
    data=DataConfig(size=32, eval_resize=32, mean=(0.4914, 0.4822, 0.4465), std=(0.2023, 0.1994, 0.2010)),
    model=ModelConfig(encoder="resnet18", small_images=True),
    train=TrainConfig(epochs=200, global_batch=512, lr=0.1, weight_decay=5e-4, warmup_epochs=10, val_every=5),
    out=Path("runs/cifar10"),
)

if __name__ == "__main__":
    run_recipe(DEFAULTS, __doc__)
