"""Launching on several machines: two torchrun launchers that meet on loopback, and the Slurm job without Slurm."""

import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from fastvarcon.run_folder import read_metrics

ROOT = Path(__file__).parents[1]
JOB = ROOT / "recipes" / "slurm" / "train.sbatch"


def test_two_nodes_meet_and_train_one_run(digits, tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        endpoint = f"127.0.0.1:{probe.getsockname()[1]}"
    run = tmp_path / "run"
    command = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc_per_node", "1"]
    command += ["--rdzv_backend", "c10d", "--rdzv_endpoint", endpoint, "--rdzv_id", "digits", "recipes/digits.py"]
    command += ["--data.train", digits[0], "--out", run, "--train.epochs", "1", "--train.global-batch", "512"]
    command += ["--train.warmup-epochs", "0", "--model.width", "0.125", "--data.size", "8", "--data.eval-resize", "8"]
    command += ["--train.device", "cpu", "--train.threads", "1", "--train.val-every", "0", "--train.log-every", "1"]
    nodes = [
        subprocess.Popen([*map(str, command)], cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        for _ in range(2)
    ]
    said = [node.communicate(timeout=600)[0] for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0], said
    assert json.loads((run / "summary.json").read_text())["world_size"] == 2
    assert [row["step"] for row in read_metrics(run / "metrics.jsonl") if row["kind"] == "step"] == [1, 2]
    assert sum("2 process(es) on cpu" in text for text in said) == 1  # one of the nodes has the first rank


@pytest.fixture
def slurm(tmp_path):
    """Submit the job to a Slurm of two shell scripts, with `training`, a piece of shell. Also what was queued again."""

    def submit(training: str, *flags: str) -> tuple[subprocess.CompletedProcess, str]:
        tools = tmp_path / "bin"
        tools.mkdir()
        scripts = {
            "srun": 'while [ "${1#--}" != "$1" ]; do shift; done\nSLURM_PROCID=5 SLURM_LOCALID=1 "$@"',
            "scontrol": f'[ "$1" = show ] && printf "node7\\nnode8\\n" || echo "$*" >> {tmp_path}/requeued',
            "training": training,
        }
        for name, text in scripts.items():
            (tools / name).write_text(f"#!/usr/bin/env bash\n{text}\n")
            (tools / name).chmod(0o755)
        environ = {**os.environ, "PATH": f"{tools}:{os.environ['PATH']}", "PYTHON": "training", "SLURM_NTASKS": "8"}
        environ |= {"SLURM_JOB_ID": "4711", "SLURM_JOB_NUM_NODES": "2", "SLURM_JOB_NODELIST": "node[7-8]"}
        done = subprocess.run(
            ["bash", JOB, "recipes/digits.py", *flags], env=environ, capture_output=True, text=True, check=False
        )
        requeued = tmp_path / "requeued"
        return done, requeued.read_text() if requeued.exists() else ""

    return submit


def test_slurm_job_tells_each_task_who_it_is(slurm, tmp_path):
    done, requeued = slurm(
        f'env > {tmp_path}/env; echo "$*" > {tmp_path}/words; touch {tmp_path}/summary.json', "--out", str(tmp_path)
    )
    told = dict(line.split("=", 1) for line in (tmp_path / "env").read_text().splitlines() if "=" in line)
    expected = {"RANK": "5", "LOCAL_RANK": "1", "WORLD_SIZE": "8", "LOCAL_WORLD_SIZE": "4", "MASTER_ADDR": "node7"}
    assert expected.items() <= told.items() and told["MASTER_PORT"] == "24711"
    assert (tmp_path / "words").read_text().split() == ["recipes/digits.py", "--out", str(tmp_path)]
    assert done.returncode == 0 and not requeued


@pytest.mark.parametrize(
    ("training", "code", "requeued"), [("exit 0", 0, "requeue 4711\n"), ("exit 3", 3, ""), ("kill -9 $$", 137, "")]
)
def test_slurm_job_queues_again_what_was_interrupted_only(slurm, tmp_path, training, code, requeued):
    done, said = slurm(training, f"--out={tmp_path / 'run'}")
    assert (done.returncode, said) == (code, requeued)


def test_slurm_job_needs_a_shared_folder(slurm):
    done, requeued = slurm("exit 0")
    assert done.returncode == 2 and "--out" in done.stderr and not requeued


def test_slurm_job_asks_for_its_signal_and_for_requeueing():
    options = re.findall(r"^#SBATCH (\S+)$", JOB.read_text(), re.M)
    assert "--requeue" in options and "--signal=USR1@300" in options
