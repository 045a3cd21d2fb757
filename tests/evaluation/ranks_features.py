"""Run by test_features.py on every rank: one kNN evaluation; the first rank keeps the features it got."""

import sys
from pathlib import Path

import torch

from fastvarcon.evaluation.job import evaluate
from fastvarcon.evaluation.options import EvalData, Knn

torch.set_num_threads(1)
out, encoder, train, val = map(Path, sys.argv[1:])
done = evaluate("knn", Knn(str(encoder), EvalData(train=train, val=val, size=8, workers=1), out=out), "test")
if done is not None:
    print(done[1]["world_size"], done[1]["top1_by_k"])
