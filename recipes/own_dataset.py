"""VarCon on your own images: the recipe to copy. ResNet-18, 128 px.

Data:      a folder for each class, images/train/CLASS/*.jpg and images/val/CLASS/*.jpg, converted once:
               fastvarcon convert images/train train.beton --max-resolution 256
               fastvarcon convert images/val val.beton --max-resolution 256
Command:   python recipes/own_dataset.py --data.train train.beton --data.val val.beton --out runs/mine
           then: fastvarcon eval linear runs/mine && fastvarcon eval knn runs/mine && fastvarcon report runs/mine
Hardware:  one GPU. On a laptop without one add
           --data.size 64 --data.eval-resize 72 --model.width 0.25 --train.epochs 20
Expected:  not measured yet
Wall time: the laptop's settings with 1,000 images: 42 s of training on two CPU cores (benchmarks/results/newcomer.csv);
           otherwise not measured yet
Data wait: not measured yet; `fastvarcon doctor --recipe recipes/own_dataset.py --data.train train.beton` measures both

The same command resumes what was interrupted. Every setting is a flag; --help shows them with their defaults.
"""

from pathlib import Path

from fastvarcon.config import Config, DataConfig, ModelConfig, TrainConfig
from fastvarcon.training.recipe import run_recipe

DEFAULTS = Config(
    # A view is cut from the stored image: convert with a --max-resolution of twice its size. 224 px costs three times
    # as much as 128. Evaluation takes the centre after a resize to eval_resize, customarily 8/7 of the size.
    # Where the mirror image means something else (text, digits): policy="crop".
    data=DataConfig(size=128, eval_resize=146),
    # Up to 64 px: small_images=True. Half the width is a quarter of the work. More images than 100,000: resnet50.
    model=ModelConfig(encoder="resnet18"),
    # Steps matter more than epochs: some thousands at least, so a thousand images want 500 epochs. The learning rate
    # goes with the batch: 0.1 for 256 images. Hundreds of classes want a larger batch.
    train=TrainConfig(epochs=100, global_batch=128, lr=0.05, weight_decay=5e-4, warmup_epochs=5, val_every=5),
    out=Path("runs/own_dataset"),
)

if __name__ == "__main__":
    run_recipe(DEFAULTS, __doc__)
