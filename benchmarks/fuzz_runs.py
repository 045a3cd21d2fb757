"""Feeds damaged run folders and weights to all that reads them back: a page, an encoder or a UserError, nothing else.

    python benchmarks/fuzz_runs.py --n 5000 --seed 0

A mutant is a run folder with one file damaged (config.json, summary.json, metrics.jsonl, a score of each evaluation),
or weights whose header is: an export, the encoder of a run, a checkpoint (whose checksum is right for the damage).
Of a run the report, the table, the comparison with itself and the model card are made; weights are built as `eval`,
`export` and a resumed training do it. As in fuzz_reader.py that happens in a process whose memory is limited.
"""

from __future__ import annotations

import json
import random
import struct
import tempfile
from dataclasses import replace
from functools import cache
from pathlib import Path

import torch
from fuzz_mutants import JUNK, Dataset, damage, junk_in_json
from fuzz_reader import main, store
from rich.console import Console
from safetensors.torch import save

from fastvarcon.config import Config, DataConfig, ModelConfig
from fastvarcon.errors import UserError
from fastvarcon.evaluation.target import resolve
from fastvarcon.export.card import model_card
from fastvarcon.models import ContrastiveModel
from fastvarcon.models.encoders import load_encoder
from fastvarcon.models.exported import EXPORT_FILE, EncoderSpec
from fastvarcon.reporting.compare import compare, compare_table
from fastvarcon.reporting.html import report
from fastvarcon.reporting.scored import read_scored
from fastvarcon.reporting.tables import score_table
from fastvarcon.run_folder import CHECKPOINT_FILE
from fastvarcon.training.checkpoint import _digest, load_checkpoint, save_checkpoint

PACKAGES = ("fastvarcon", "matplotlib", "safetensors", "torch", "timm")
MEMORY = 512 << 20  # bytes beyond those of an idle process: charts and a tiny network take a tenth of it
WORSE = (*JUNK, 1e308, -1e308, 10**400, 2**53, "a$b_{c}", "\n\x1b[31m", "\0", "../../x", [[0, 1, 2.0, 2]] * 3)
MODEL = ModelConfig("resnet18", width=1 / 16, small_images=True, head_dim=8)
CHECKPOINT = f"checkpoints/epoch-001/{CHECKPOINT_FILE}"


# ---- whole runs ------------------------------------------------------------------------------------------------------

COMMON = {"features": "encoder", "title": "x", "encoder_sha256": "0", "seed": 0, "seconds": 1.0, "num_val": 9}
AGREEMENT = dict.fromkeys(("ari", "nmi", "v_measure", "homogeneity", "completeness", "purity"), 0.5)
ROWS = [
    {"encoder": "x", "method": method, "shots": shots, "mean": 0.5, "half_width": 0.1}
    for method in ("nearest class mean", "logistic regression")
    for shots in (1, 10)
]
SCORES: dict[str, dict] = {
    "linear": {
        "top1": 0.6, "top1_std": 0.01, "top1_by_seed": [0.6, 0.6], "top5": 0.9, "lr": 1.0, "decay": 0.0,
        "best_epoch_top1_test_selected": 0.6, "curve": [{"epochs": [1, 2], "top1": [0.5, 0.6], "top5": 0.9}],
    },
    "knn": {
        "top1": 0.5, "k": 20, "top1_by_k": {"1": 0.5, "20": 0.5}, "weighted_top1_by_k": {"1": 0.5, "20": 0.5},
        "temperature": 0.07, "nearest_class_mean_top1": 0.5,
    },
    "few-shot": {"rows": ROWS, "differences": ROWS, "shots": [1, 10]},
    "transfer": {
        "top1": 0.5,
        "rows": [
            {
                "val": "v.beton", "logistic_top1": 0.5, "logistic_class_mean": 0.5, "strength": 1.0, "num_train": 10,
                "num_val": 10, "fine_tuned_top1": 0.6,
            }
        ],
    },
    "corruption": {
        "top1": 0.5, "clean_top1": 0.8, "mean_error": 0.5, "relative_mean_error": 0.3, "mce": 0.9, "relative_mce": 1.1,
        "errors": {name: {"1": 0.1, "5": 0.5} for name in ("snow", "glass_blur")}, "doubts": [],
    },
    "clustering": {
        **AGREEMENT, "class_tree": [[0, 1, 1.0, 2], [2, 3, 2.0, 3]], "class_names": ["ant", "bee", "cat"],
        "superclasses": {**AGREEMENT, "cophenetic_correlation": 0.5},
    },
    "embed": {
        "maps": [{"checkpoint": "encoder", "method": "t-SNE", "places": [[0, 0], [1000, 0], [0, 1000], [9, 9]]}],
        "labels": [0, 1, 2, 0], "classes": ["ant", "bee", "cat"], "grid": 1000, "thumbnails": "AAAA",
        "thumbnail_columns": 2, "thumbnail_side": 32,
    },
    "calibration": {
        "top1": 0.5, "ece": 0.1, "mce": 0.2, "nll": 1.0, "brier": 0.5,
        "bins": [{"from": 0.0, "to": 1.0, "count": 4, "confidence": 0.6, "accuracy": 0.5}],
    },
    "geometry": {"cdnv": 0.25, "few_shot": []},
}  # fmt: skip
SUMMARY = {
    "final_loss": 1.5, "epochs": 2, "seconds": 9.5, "views_per_second": 100.0, "data_wait_fraction": 0.1,
    "world_size": 1, "global_batch": 128, "backend": "cpu", "device_name": "a CPU", "versions": {"torch": "2"},
    "command": "train.py",
}  # fmt: skip
FIGURES = {"loss": 2.5, "kl": 1.0, "nll": 1.5, "tau2": 0.1, "tau2_std": 0.01, "confidence": 0.5, "hit": 0.6}
METRICS = [
    *({"kind": "step", "epoch": 0, "step": step, "lr": 0.1, **FIGURES, "nscl_gap": 0.1} for step in (1, 2)),
    {"kind": "epoch", "epoch": 1, "step": 2, **FIGURES, "val_knn_top1": 0.5, "tau2_histogram": [1, 2, 3]},
]


def config() -> Config:
    return Config(DataConfig(size=8, eval_resize=8), MODEL, out=Path("run"))


def make_runs() -> dict[str, Dataset]:
    """A run with a score of each evaluation, and one with metrics: few charts each, so that many can be drawn."""
    settings = _text(config().flat())
    runs: dict[str, Dataset] = {
        name: {
            "config.json": settings,
            f"eval/{name}.json": _text({**COMMON, "name": name, "protocol": "p", "command": "c", **figures}),
        }
        for name, figures in SCORES.items()
    }
    rows = b"".join(_text(row) + b"\n" for row in METRICS)
    runs["training"] = {"config.json": settings, "summary.json": _text(SUMMARY), "metrics.jsonl": rows}
    return runs


def make_weights() -> dict[str, Dataset]:
    """An export, a run with its encoder, a checkpoint in a run, and a file of weights alone."""
    torch.manual_seed(0)
    network = ContrastiveModel(MODEL, size=8)
    state = network.encoder.state_dict()
    settings = _text(config().flat())
    with tempfile.TemporaryDirectory() as folder:
        save_checkpoint(Path(folder), {"epoch": 1, "model": network.state_dict(), "names": ["a", None, 1.5]}, "run")
        checkpoint = Path(folder, CHECKPOINT_FILE).read_bytes()
    return {
        "export": {EXPORT_FILE: save(state, EncoderSpec.of_config(config()).header())},
        "run": {"config.json": settings, "encoder.safetensors": save(state)},
        "checkpoint": {"config.json": settings, CHECKPOINT: checkpoint},
        "file": {"w.safetensors": save(state)},
    }


def _text(content: object) -> bytes:
    return json.dumps(content).encode()


# ---- damage ----------------------------------------------------------------------------------------------------------


class Mutants:
    """An endless row of damaged run folders and weights. Mutant i depends on `seed` and i alone."""

    def __init__(self, seed: int):
        self._seed = seed
        self._seeds = make_runs() | make_weights()
        self._names = list(self._seeds)
        self._others = [content for dataset in self._seeds.values() for content in dataset.values()]

    def __getitem__(self, index: int) -> Dataset:
        rng = random.Random(f"{self._seed}/{index}")
        dataset = dict(self._seeds[rng.choice(self._names)])
        file = rng.choice([name for name in dataset for _ in range(1 if name == "config.json" else 3)])
        content = dataset[file]
        if rng.random() < 0.2:  # bytes, wherever they are
            changed = bytearray(content)
            for _ in range(rng.choice((1, 1, 2, 6))):
                damage(changed, list(range(min(len(changed), 20_000))), self._others, rng)
            content = bytes(changed)
        elif file.endswith(".safetensors"):
            content = _junk_in_header(content, rng)
        elif file == "metrics.jsonl":
            rows = content.splitlines()
            row = rng.randrange(len(rows))
            rows[row] = _junk(json.loads(rows[row]), rng)
            content = b"\n".join(rows)
        else:
            content = _junk(json.loads(content), rng)
        return {**dataset, file: content}


def _junk(value: object, rng: random.Random) -> bytes:
    for _ in range(rng.choice((1, 1, 2, 4))):
        value = junk_in_json(value, rng, WORSE)
    text = json.dumps(value)
    return b"[" * 50_000 if rng.random() < 0.01 else text.encode("utf-8", "surrogatepass")


def _junk_in_header(content: bytes, rng: random.Random) -> bytes:
    """Weights whose header is framed rightly: damaged are its tensors, its texts, or JSON in one of its texts."""
    length = int.from_bytes(content[:8], "little")
    header, tensors = json.loads(content[8 : 8 + length]), content[8 + length :]
    texts = header.get("__metadata__", {})
    inner = [name for name in ("fastvarcon", "state") if name in texts]
    if inner and rng.random() < 0.7:
        texts[inner[0]] = _junk(json.loads(texts[inner[0]]), rng).decode("utf-8", "replace")
        if inner[0] == "state":
            digest = _digest(texts["run"], texts["state"], _tensors(content))
            texts["sha256"] = digest
    elif rng.random() < 0.5:
        header = junk_in_json(header, rng, WORSE)
    else:  # another shape, of a tensor that has one
        name = rng.choice([name for name in header if name != "__metadata__"])
        shape = rng.choice(([], [0], [1 << 40], [1 << 62, 4], [64_000, 3, 3, 3], [rng.randrange(1 << 20)] * 2))
        size = 4 * shape[0] if len(shape) == 1 and 0 < shape[0] < 1 << 16 else 0
        header[name] = {"dtype": rng.choice(("F32", "F8_E4M3", "I64", "BOOL", "C64", "F4")), "shape": shape}
        header[name]["data_offsets"] = [0, size]
    text = json.dumps(header).encode("utf-8", "surrogatepass")
    return struct.pack("<Q", len(text)) + text + tensors


@cache
def _tensors(content: bytes) -> dict[str, torch.Tensor]:
    from safetensors.torch import load

    return load(content)


# ---- reading ---------------------------------------------------------------------------------------------------------


def read_back(path: Path) -> str:
    """Make everything that is made of such a folder: "opened", or "refused" with a UserError. All else is a bug."""
    made = [_reports(path)] if (path / "eval").exists() or (path / "metrics.jsonl").exists() else []
    made += [_encoder(place) for place in (path, *path.glob("*.safetensors"), *path.glob("checkpoints/*"))]
    return "opened" if any(made) else "refused"


def _reports(path: Path) -> bool:
    try:
        scored = read_scored(path)
        console = Console(file=open("/dev/null", "w"))  # noqa: SIM115
        console.print(score_table(scored))
        page = report(scored)
        page.encode("utf-8", "backslashreplace")
        if scored.config is not None:
            spec = EncoderSpec.of_config(scored.config)
            model_card(scored, scored.config, spec, 32, "hub-folder", "out", "command").encode("utf-8", "replace")
        if any("top1" in score for score in scored.scores.values()):
            console.print(compare_table(compare([replace(scored, stale=frozenset())] * 2, "command")))
    except UserError as error:
        assert "\n" not in str(error), str(error)
        return False
    return True


def _encoder(place: Path) -> bool:
    try:
        target = resolve(str(place), None)
        settings = target.settings
        target.build(8 if settings is None else settings.size)
        if target.kind in ("run", "export"):
            load_encoder(place)
        if target.kind == "checkpoint":
            load_checkpoint(place)
    except UserError:
        return False
    return True


def read_stored(dataset: Dataset, folder: Path) -> str:
    return read_back(store(dataset, folder))


if __name__ == "__main__":
    main(read_stored, Mutants, MEMORY, PACKAGES, __doc__)
