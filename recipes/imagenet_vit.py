"""VarCon on ImageNet-1k with a vision transformer: timm's ViT-S/16, 224 px, 300 epochs, AdamW, global batch 4096.

Data:      pip install 'fastvarcon[timm]', and the files of recipes/imagenet_r50.py:
               fastvarcon convert imagenet/train train.beton --max-resolution 400
               fastvarcon convert imagenet/val val.beton --max-resolution 400
Command:   accelerate launch recipes/imagenet_vit.py --data.train train.beton --data.val val.beton --out runs/vit-s
Hardware:  eight GPUs of 80 GB (4096 images are 1024 views a GPU); on fewer add --train.micro-batch 512
           --model.drop-path 0
Expected:  not measured yet, and the paper has no vision transformer
Wall time: not measured yet
Data wait: not measured yet

Optimiser and schedule are those of MoCo v3 for ViT-S (Chen et al. 2021, github.com/facebookresearch/moco-v3), the
published recipe for contrastive training of vision transformers with large batches: AdamW, learning rate 1.5e-4 per
256 images, weight decay 0.1, 40 epochs of warm-up, 300 in all. Its frozen patch projection is not here. Drop path 0.1
and no decay of norms, biases, position embeddings and class token are DeiT's (Touvron et al. 2021).
Any other network of timm: --model.encoder timm/NAME.
"""

from pathlib import Path

from fastvarcon.config import Config, DataConfig, ModelConfig, TrainConfig
from fastvarcon.training.recipe import run_recipe

DEFAULTS = Config(
    data=DataConfig(size=224, eval_resize=256),
    # a hidden layer as wide as with ResNet-50: that of 384, the features of ViT-S, would be a bottleneck
    model=ModelConfig(encoder="timm/vit_small_patch16_224", drop_path=0.1, head_hidden=2048),
    train=TrainConfig(
        epochs=300,
        global_batch=4096,
        optimizer="adamw",
        lr=1.5e-4,
        lr_scale="linear",
        weight_decay=0.1,
        decay_norm_and_bias=False,
        warmup_epochs=40,
        val_every=5,
        save_every=50,
    ),
    out=Path("runs/imagenet_vit"),
)

if __name__ == "__main__":
    run_recipe(DEFAULTS, __doc__)
