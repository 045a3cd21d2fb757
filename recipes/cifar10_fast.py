"""VarCon on CIFAR-10 within a minute of one H200: ResNet-18 with the CIFAR stem, 24 epochs, everything on the GPU.

Data:      that of recipes/cifar10.py:
               fastvarcon convert cifar10/train cifar10-train.beton --mode raw
               fastvarcon convert cifar10/test cifar10-val.beton --mode raw
Command:   python recipes/cifar10_fast.py --data.train cifar10-train.beton --data.val cifar10-val.beton
Hardware:  one H200. On a CPU, narrower and shorter: add --train.compile off --model.width 0.25 --train.epochs 4
           --train.warmup-epochs 1
Expected:  not measured yet as it stands; a quarter of the width and bf16 on two CPU cores give linear 84.3 %,
           kNN 83.9 % in 24 epochs and 87.6 %, 87.5 % in 60 (rows cifar10-quarter and cifar10-quarter60 of
           benchmarks/results/runs.csv, with their commands; n = 1)
Wall time: not measured yet as it stands, 45 and 80 minutes for the rows above; 60 s need 40,000 views a second,
           besides the compilation. An A100 trains a plain ResNet-18 at 23,000 (32.3 PFLOP in seven minutes,
           github.com/KellerJordan/cifar10-airbench, 3.3 GFLOP a view), and an H200 has three times its arithmetic
Data wait: not measured yet as it stands; 0.4 and 0.9 % in the rows above

The schedule is that of the DAWNBench speed runs (David Page, github.com/davidcpage/cifar10-fast): 24 epochs of batch
512, Nesterov momentum, weight decay 5e-4, five epochs up and the rest down to zero. Batch 512 leaves 2,328 steps and
fills the GPU, as its rows are 1,024 views. Their peak of 0.4 is for cross-entropy; VarCon's gradient is that of two
cross-entropies (KL and NLL), so the peak is 0.2. Crops and flips alone, as in those runs: few epochs leave no time for
stronger augmentation. A moving average over a hundred steps takes the noise out of the last ones.
"""

from pathlib import Path

from fastvarcon.config import Config, DataConfig, ModelConfig, TrainConfig
from fastvarcon.training.recipe import run_recipe

DEFAULTS = Config(
    data=DataConfig(
        backend="resident",  # 154 MB of pixels, decoded once, on the GPU where there is one
        policy="crop-flip",
        size=32,
        eval_resize=32,
        mean=(0.4914, 0.4822, 0.4465),
        std=(0.2023, 0.1994, 0.2010),
    ),
    model=ModelConfig(encoder="resnet18", small_images=True),
    train=TrainConfig(
        epochs=24,
        global_batch=512,
        lr=0.2,
        nesterov=True,
        weight_decay=5e-4,
        warmup_epochs=5,
        ema=0.99,
        compile="cuda-graphs",
        log_every=97,  # once an epoch: the GPU is waited for then
        val_every=24,
        save_minutes=0,
    ),
    out=Path("runs/cifar10_fast"),
)

if __name__ == "__main__":
    run_recipe(DEFAULTS, __doc__)
