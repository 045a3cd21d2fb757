import functools
from itertools import islice

import pytest
import torch
from accelerate import Accelerator

from fastvarcon.bench.step_ours import Training
from fastvarcon.config import Config, DataConfig, ModelConfig, TrainConfig
from fastvarcon.models import ContrastiveModel
from fastvarcon.training.compiled import compile_network
from fastvarcon.training.distributed import own_accelerate_state
from fastvarcon.training.trainer import train


def test_training_is_compiled_evaluation_is_not_and_names_stay(monkeypatch):
    """With a backend that runs the captured graphs as they are: inductor takes a minute on one core."""
    runs = []

    def backend(graph, inputs):
        runs.append(graph)
        return graph.forward

    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=backend))
    torch.manual_seed(0)
    network = ContrastiveModel(ModelConfig("resnet18", width=0.125, small_images=True, head_dim=8))
    names, views = list(network.state_dict()), torch.randn(4, 3, 8, 8)
    expected = network.eval()(views)
    compile_network(network, "default")
    assert list(network.state_dict()) == names
    network.encoder(views)
    assert not runs
    torch.testing.assert_close(network(views), expected)
    assert len(runs) == 1  # the whole network in one graph


def training(digits, **settings) -> Training:
    values = {"epochs": 4, "global_batch": 64, "lr": 0.05, "warmup_epochs": 0.0, "device": "cuda", **settings}
    return Training(
        Config(
            data=DataConfig(train=digits[0], policy="crop", size=16, eval_resize=16),
            model=ModelConfig("resnet18", width=0.25, small_images=True),
            train=TrainConfig(**values),
        )
    )


def test_trainings_of_different_precision_in_one_process(digits, tmp_path):
    """Accelerate keeps one precision per process; a training leaves it as it was."""
    config = Config(
        data=DataConfig(train=digits[0], policy="crop", size=8, eval_resize=8),
        model=ModelConfig("resnet18", width=0.0625, small_images=True),
        train=TrainConfig(1, 512, warmup_epochs=0, device="cpu", threads=1, precision="fp32"),
        out=tmp_path / "run",
    )
    with own_accelerate_state():
        mine = Accelerator(cpu=True, mixed_precision="bf16")
        for precision in ("fp32", "bf16"):
            with training(digits, precision=precision, device="cpu", threads=1) as run:
                run.step(*next(run.batches()))
                assert run.accelerator.mixed_precision == precision.replace("fp32", "no")
        assert train(config)["epochs"] == 1
        assert mine.mixed_precision == "bf16" and mine.device.type == "cpu"


@pytest.mark.gpu
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"precision": "fp16"},
        {"precision": "tf32", "optimizer": "adamw", "ema": 0.99},
        {"optimizer": "lars", "nesterov": True, "decay_norm_and_bias": False},
        {"batch_norm": "ghost", "bn_group": 16, "micro_batch": 32},
        {"compile": "default"},
    ],
)
def test_no_step_waits_for_the_device(digits, settings):
    with training(digits, **settings) as run:
        batches = list(islice(run.batches(), 8))
        run.data.train.close()  # its thread may wait as it likes
        for batch in batches[:4]:
            run.step(*batch)
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("error")
        try:
            for batch in batches[4:]:
                run.step(*batch)
        finally:
            torch.cuda.set_sync_debug_mode("default")


@pytest.mark.gpu
@pytest.mark.parametrize("micro_batch", [0, 32])
@pytest.mark.parametrize("mode", ["default", "cuda-graphs"])
def test_compiled_steps_are_those_of_eager_ones(digits, mode, micro_batch):
    losses = []
    for compiled in ("off", mode):
        settings = {"batch_norm": "ghost", "bn_group": 16, "micro_batch": micro_batch, "precision": "fp32", "lr": 1e-3}
        with training(digits, compile=compiled, **settings) as run:
            for batch in islice(run.batches(), 5):
                run.step(*batch)
            losses.append(run.loss())
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)
