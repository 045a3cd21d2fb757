import json
from pathlib import Path

import pytest

from fastvarcon.config import Config, DataConfig, LossConfig, ModelConfig, MonitorConfig, SamplingConfig, TrainConfig
from fastvarcon.errors import UserError


def test_round_trip(tmp_path):
    config = Config(data=DataConfig(train=tmp_path / "a.beton", mean=(0.1, 0.2, 0.3)))
    config.train.lr, config.train.decay_epochs, config.loss.prototype_momentum = 0.125, (3, 5, 7), 0.9
    (tmp_path / "config.json").write_text(json.dumps(config.flat()))
    assert Config.load(tmp_path / "config.json") == config


def test_keys_mirror_the_flags():
    flat = Config().flat()
    assert flat["train.epochs"] == 200 and flat["loss.eps"] == 0.02 and flat["data.val"] is None and flat["out"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "cannot be read"),
        ("[]", "not hold a JSON object"),
        ('{"train.speed": 1}', "unknown key 'train.speed'"),
        ('{"a.b.c": 1}', "unknown key 'a.b.c'"),
        ('{"data.size": "big"}', "data.size has a value"),
        ('{"model.width": true}', "model.width has a value"),
        ('{"loss.name": "hinge"}', "loss.name has a value"),
        ('{"loss.prototype_momentum": "0.5"}', "loss.prototype_momentum has a value"),
        ('{"data.mean": [1, 2]}', "data.mean has a value"),
        ('{"out": 3}', "out has a value"),
        ('{"train.decay_epochs": [1, "2"]}', "train.decay_epochs has a value"),
        ('{"train.decay_epochs": 3}', "train.decay_epochs has a value"),
    ],
)
def test_foreign_files(tmp_path, content, message):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(UserError, match=message):
        Config.load(tmp_path / "config.json")


def test_missing_file_is_no_run_folder(tmp_path):
    with pytest.raises(UserError, match="is not a run folder"):
        Config.load(tmp_path / "config.json")


@pytest.mark.parametrize("recipe", ["digits", "cifar10", "cifar100", "imagenette", "imagenet_r50"])
def test_recipes_show_every_flag_and_their_docstring(call, monkeypatch, recipe):
    monkeypatch.setenv("COLUMNS", "200")
    done = call(f"recipes/{recipe}.py", "--help")
    assert done.returncode == 0
    flags = [f"--{key.replace('_', '-')}" for key in Config().flat()]
    assert not [flag for flag in flags if flag not in done.stdout and flag.replace("--", "--no-") not in done.stdout]
    lines = [line.strip() for line in done.stdout.splitlines()]
    assert all(any(line.startswith(head) for line in lines) for head in ("Command:", "Hardware:", "Expected:"))


def test_imagenet_recipe_is_the_stated_one():
    import runpy
    from pathlib import Path

    recipe = Path(__file__).parents[1] / "recipes" / "imagenet_r50.py"
    config = runpy.run_path(str(recipe))["DEFAULTS"]
    assert (config.model.encoder, config.data.size, config.train.epochs, config.data.num_views) == (
        "resnet50",
        224,
        200,
        2,
    )
    assert (config.train.global_batch, config.loss.tau1, config.loss.eps) == (4096, 0.1, 0.02)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"encoder": "vgg"}, "--model.encoder vgg is not known: choose from resnet18, .*, or timm/NAME"),
        ({"encoder": "timm/x", "width": 0.5}, "not timm/x: give --model.width 1$"),
        (
            {"encoder": "timm/x", "small_images": True, "zero_init_residual": True},
            "give --model.no-small-images --model.no-zero-init-residual$",
        ),
        ({"encoder": "timm/x", "drop_path": 1.0}, "--model.drop-path must lie in"),
        ({"drop_path": 0.1}, "--model.drop-path is for timm's networks, not for resnet50: leave it out"),
    ],
)
def test_encoders_that_no_run_could_use(values, message):
    config = Config(DataConfig(train=Path("a")), ModelConfig(**values))
    with pytest.raises(UserError, match=message):
        config.validate()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"block_mb": 8, "window_mb": 4}, "--sampling.window-mb"),
        ({"per_class": -1}, "--sampling.per-class must be 0"),
        ({"per_class": 2, "order": "block"}, "leave --sampling.order"),
        ({"per_class": 3}, "must be a multiple"),
        ({"per_class": 2, "bind": True}, "--sampling.bind goes with"),
        ({"order": "block", "bind": True}, "--sampling.bind goes with"),
    ],
)
def test_sampling_that_no_run_could_use(values, message):
    config = Config(DataConfig(train=Path("a")), sampling=SamplingConfig(**values))
    with pytest.raises(UserError, match=message):
        config.validate()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"temperature": 0.0}, "--loss.temperature must be positive"),
        ({"beta": -1.0}, "--loss.beta"),
        ({"alpha": 1.1}, "--loss.alpha must lie between 0 and 1"),
        ({"kcl_t": 0.0}, "--loss.kcl-t"),
        ({"clop_weight": -1.0}, "--loss.clop-weight"),
        ({"label_smoothing": 1.0}, "--loss.label-smoothing"),
    ],
)
def test_losses_that_no_run_could_use(values, message):
    config = Config(DataConfig(train=Path("a")), loss=LossConfig(**values))
    with pytest.raises(UserError, match=message):
        config.validate()


@pytest.mark.parametrize("name", ["simclr", "dcl", "nscl", "ssem", "dhel", "kcl", "clop"])
def test_losses_of_views_need_two(name):
    config = Config(DataConfig(train=Path("a"), num_views=1), loss=LossConfig(name))
    with pytest.raises(UserError, match=rf"--loss.name {name} compares views .* --data.num-views must be 2"):
        config.validate()
    Config(DataConfig(train=Path("a"), num_views=1), loss=LossConfig("supcon")).validate()
    with pytest.raises(UserError, match=r"--monitor.nscl compares views"):
        Config(DataConfig(train=Path("a"), num_views=1), monitor=MonitorConfig(nscl=True)).validate()


@pytest.mark.parametrize("name", ["nscl", "sincere", "hscl"])
def test_losses_of_other_classes_need_batches_of_several(name):
    sampling = SamplingConfig(per_class=1024)
    config = Config(DataConfig(train=Path("a")), loss=LossConfig(name), sampling=sampling)
    with pytest.raises(UserError, match=rf"--loss.name {name} needs several classes in a batch: --sampling.per-class"):
        config.validate()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"micro_batch": 65}, "--train.micro-batch .65. must not be larger than --train.global-batch .64."),
        ({"micro_batch": 8}, "use --train.batch-norm ghost and a --train.bn-group"),
        ({"micro_batch": 8, "batch_norm": "sync"}, "over which --train.batch-norm sync takes its statistics"),
        ({"batch_norm": "ghost"}, "needs --train.bn-group"),
        ({"bn_group": 8}, "belongs to --train.batch-norm ghost"),
        ({"nesterov": True, "optimizer": "adamw"}, "--train.nesterov needs"),
        ({"nesterov": True, "momentum": 0.0}, "--train.nesterov needs"),
        ({"schedule": "step", "decay_epochs": (10, 200)}, "--train.decay-epochs 10 200 must lie before the end"),
        ({"schedule": "step", "decay_epochs": ()}, "--train.decay-epochs"),
        ({"ema": 1.0}, "--train.ema must lie"),
        ({"lr_end": 2.0}, "--train.lr-end"),
        ({"save_minutes": -1.0}, "--train.save-minutes"),
        ({"keep": 2}, "--train.save-every stay: give that too"),
    ],
)
def test_training_that_contradicts_itself(values, message):
    config = Config(DataConfig(train=Path("a")), train=TrainConfig(**{"global_batch": 64, **values}))
    with pytest.raises(UserError, match=message):
        config.validate()
