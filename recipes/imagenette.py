"""VarCon on Imagenette, ten ImageNet classes, at 160 px.

Data:      fastvarcon convert imagenette/train imagenette-train.beton --max-resolution 256
           fastvarcon convert imagenette/val imagenette-val.beton --max-resolution 256
Command:   accelerate launch recipes/imagenette.py --data.train imagenette-train.beton --data.val imagenette-val.beton
Hardware:  one GPU
Expected:  not measured yet as it stands; a quarter of the width, 96 px and 20 epochs on two CPU cores give
           linear 63.6 %, kNN 62.8 %, against 33.7 % for raw pixels
           (row imagenette-cpu of benchmarks/results/runs.csv, with its command; n = 1)
Wall time: not measured yet as it stands; four minutes for the row above
Data wait: not measured yet as it stands; 1.9 % in the row above
"""

from pathlib import Path

from fastvarcon.config import Config, DataConfig, ModelConfig, TrainConfig
from fastvarcon.training.recipe import run_recipe

DEFAULTS = Config(
    data=DataConfig(size=160, eval_resize=184),
    model=ModelConfig(encoder="resnet18"),
    train=TrainConfig(epochs=200, global_batch=256, lr=0.1, weight_decay=5e-4, warmup_epochs=10, val_every=5),
    out=Path("runs/imagenette"),
)

if __name__ == "__main__":
    run_recipe(DEFAULTS, __doc__)
