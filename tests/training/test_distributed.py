import json

import torch

from fastvarcon.training.distributed import launcher_warning, resolve_precision

ACCELERATE_WITHOUT_RANKS = {"ACCELERATE_MIXED_PRECISION": "no", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}


def test_a_launcher_that_starts_one_process_in_the_place_of_several_is_noticed():
    """The environment that accelerate 1.15 leaves for `launch --cpu --num_processes 2`."""
    assert "torchrun --nproc_per_node" in launcher_warning(ACCELERATE_WITHOUT_RANKS, 1)


def test_other_launches_are_not_complained_about():
    assert launcher_warning({}, 1) is None
    assert launcher_warning({"ACCELERATE_MIXED_PRECISION": "no"}, 1) is None
    assert launcher_warning({**ACCELERATE_WITHOUT_RANKS, "WORLD_SIZE": "2"}, 2) is None
    assert launcher_warning({**ACCELERATE_WITHOUT_RANKS, "WORLD_SIZE": "1"}, 1) is None


def test_precision():
    assert resolve_precision("auto", on_gpu=True) == "bf16" and resolve_precision("auto", on_gpu=False) == "fp32"


def test_accelerate_really_does_so(accelerate_launch, tmp_path):
    """If this fails, accelerate has changed: then the warning may have to go."""
    if torch.cuda.device_count() > 1:
        return  # then accelerate starts what it was asked for
    script = tmp_path / "show.py"
    script.write_text("import json, os; print(json.dumps(dict(os.environ)))")
    environs = [json.loads(accelerate_launch("--cpu", "--num_processes", n, script)) for n in (2, 1)]
    assert "started ONE" in launcher_warning(environs[0], 1) and launcher_warning(environs[1], 1) is None
