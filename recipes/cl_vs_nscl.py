"""Is self-supervised contrast nearly supervised contrast? Three findings of arXiv 2506.04411, on small data.

Data:      scikit-learn's digits, which make demo converts
Command:   make demo && python recipes/cl_vs_nscl.py --out runs/cl-vs-nscl
Hardware:  any CPU
Expected:  seed 0: 1. the gap of the trained losses falls as classes^-1.08, its
           correlation with the bound is 0.994; 2. the two losses correlate by 0.9997; 3. directional CDNV falls 41-fold
           with DCL and 135-fold with NSCL, and from epoch 10 on CDNV falls 1.6-fold with DCL, 4.8-fold with NSCL
Wall time: some minutes on one core
Data wait: not measured yet
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import tyro

from fastvarcon.config import Config, DataConfig, LossConfig, ModelConfig, MonitorConfig, TrainConfig
from fastvarcon.errors import UserError, exits_cleanly
from fastvarcon.json_file import write_json


@dataclass
class Study:
    data: DataConfig = dataclasses.field(
        default_factory=lambda: DataConfig(
            train=Path("runs/digits-train.beton"),
            policy="crop",
            size=8,
            eval_resize=8,
            mean=(0.305,) * 3,
            std=(0.376,) * 3,
        )
    )
    model: ModelConfig = dataclasses.field(
        default_factory=lambda: ModelConfig(
            encoder="resnet18", width=0.125, small_images=True, zero_init_residual=True, head_dim=64
        )
    )
    train: TrainConfig = dataclasses.field(
        default_factory=lambda: TrainConfig(
            epochs=60, global_batch=128, lr=0.1, weight_decay=5e-4, warmup_epochs=5, log_every=5, save_every=10
        )
    )
    temperature: float = 0.5
    """Of training. The losses that are compared are always those at 1."""
    classes: tuple[int, ...] = (2, 3, 5, 10)
    """Numbers of classes, the first ones of the data, that the gap is measured with; the last is that of the rest."""
    out: Path = Path("runs/cl-vs-nscl")
    """Folder of the runs, study.json and study.png. The same command goes on where it was stopped."""


def train_all(study: Study) -> dict[str, Config]:
    """DCL on every number of classes, NSCL on the last."""
    from fastvarcon.training.trainer import train

    configs = {}
    for classes in study.classes:
        data = dataclasses.replace(study.data, train=subset(study, classes), val=None)
        for loss in ("dcl", "nscl") if classes == study.classes[-1] else ("dcl",):
            config = Config(
                data=data,
                model=study.model,
                loss=LossConfig(loss, temperature=study.temperature),
                train=study.train,
                out=study.out / f"{loss}-{classes}",
                monitor=MonitorConfig(nscl=True),
            )
            train(config)
            configs[f"{loss}-{classes}"] = config
    return configs


def subset(study: Study, classes: int) -> Path:
    """A .beton file of the images of the first classes."""
    from fastvarcon.data.records import content_hash, open_records
    from fastvarcon.data_prep.beton_writer import BetonWriter
    from fastvarcon.data_prep.record import Record

    path = study.out / f"first-{classes}.beton"
    if path.exists():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    whole = open_records(study.data.train)
    if not 2 <= classes <= len(whole.classes):
        raise UserError(f"--classes must lie between 2 and the {len(whole.classes)} of {study.data.train}")
    ids = [i for i, label in enumerate(whole.labels.tolist()) if 0 <= label < classes]
    with BetonWriter(path, len(ids), whole.classes[:classes]) as writer:
        for i in ids:
            content = bytes(whole.record(i))
            record = Record(content, int(whole.modes[i]), int(whole.heights[i]), int(whole.widths[i]))
            writer.add(record, int(whole.labels[i]), content_hash(content))
    return path


def geometry_by_epoch(config: Config) -> list[dict]:
    """CDNV and directional CDNV of the training images' features, untrained and at every kept checkpoint."""
    from fastvarcon.evaluation.geometry import cdnv, directional_cdnv
    from fastvarcon.evaluation.moments import measure

    rows = []
    for epoch in range(0, config.train.epochs + 1, config.train.save_every):
        x, labels = features(encoder_at(config, epoch), config.data)
        moments, directional = measure(x, labels, int(labels.max()) + 1)
        rows.append({"epoch": epoch, "V": cdnv(moments), "V_dir": directional_cdnv(moments, directional)})
    return rows


def encoder_at(config: Config, epoch: int):
    """Of a kept checkpoint; at epoch 0, as it was initialised."""
    import torch

    from fastvarcon.evaluation.target import resolve
    from fastvarcon.models import ContrastiveModel

    if epoch:
        return resolve(str(config.out / "checkpoints" / f"epoch-{epoch:03d}"), None).build(config.data.size)[0]
    torch.manual_seed(config.train.seed)
    return ContrastiveModel(config.model).encoder.train()  # it has no running statistics yet: it takes the batch's


def features(encoder, data: DataConfig):
    """One evaluation view an image: [n, D] and labels [n]."""
    import torch

    from fastvarcon.data.backends import open_backend
    from fastvarcon.data.loader import Loader
    from fastvarcon.evaluation.images import eval_spec

    backend = open_backend(data.backend, data.train, max(1, data.workers), device="cpu")
    found, labels = [], []
    try:
        with Loader(backend, eval_spec(data), global_batch=256, train=False) as loader, torch.no_grad():
            for views, batch_labels, _ in loader:
                found.append(encoder(views).flatten(1))
                labels.append(batch_labels)
    finally:
        backend.close()
    return torch.cat(found), torch.cat(labels)


def findings(study: Study, configs: dict[str, Config]) -> dict:
    """The figures of the three findings."""
    import numpy as np

    from fastvarcon.run_folder import read_metrics

    most = study.classes[-1]
    steps = {
        name: [row for row in read_metrics(config.out / "metrics.jsonl") if row["kind"] == "step"]
        for name, config in configs.items()
    }
    gaps = []
    for classes in study.classes:
        first, last = steps[f"dcl-{classes}"][0], steps[f"dcl-{classes}"][-1]
        gaps.append(
            {
                "classes": classes,
                "first": first["nscl_gap"],
                "last": last["nscl_gap"],
                "bound": last["nscl_bound"],
                "equal_similarities": float(np.log(classes / (classes - 1))),
            }
        )
    logs = np.log([[gap[name] for gap in gaps] for name in ("classes", "last", "bound")])
    curve = np.array([[row["dcl_tau1"], row["nscl_tau1"]] for row in steps[f"dcl-{most}"]]).T
    geometry = {loss: geometry_by_epoch(configs[f"{loss}-{most}"]) for loss in ("dcl", "nscl")}
    return {
        "gaps": gaps,
        "gap_slope": float(np.polyfit(logs[0], logs[1], 1)[0]),
        "gap_bound_correlation": float(np.corrcoef(np.exp(logs[1]), np.exp(logs[2]))[0, 1]),
        "loss_correlation": float(np.corrcoef(curve)[0, 1]),
        "geometry": geometry,
        "fall": {
            loss: {
                since: {name: rows[first][name] / rows[-1][name] for name in ("V", "V_dir")}
                for first, since in enumerate(("untrained", "first_checkpoint"))
            }
            for loss, rows in geometry.items()
        },
        "curve": [{key: row[key] for key in ("step", "dcl_tau1", "nscl_tau1")} for row in steps[f"dcl-{most}"]],
    }


def draw(found: dict, path: Path) -> None:
    from fastvarcon.reporting.drawing import BLUE, GREY, ORANGE, Figure, drawing, save

    with drawing():
        figure = Figure(figsize=(15, 4), layout="constrained")
        gap, losses, geometry = figure.subplots(1, 3)
        classes = [row["classes"] for row in found["gaps"]]
        for name, colour, style in (("bound", GREY, ":"), ("last", BLUE, "-"), ("first", ORANGE, "--")):
            label = {"bound": "bound", "last": "trained with DCL", "first": "first step"}[name]
            gap.plot(classes, [row[name] for row in found["gaps"]], style, marker="o", color=colour, label=label)
        gap.set(xscale="log", yscale="log", xlabel="classes", ylabel="DCL - NSCL, nats", title="The gap falls")
        gap.set_xticks(classes, map(str, classes))
        gap.minorticks_off()
        curve = found["curve"]
        for name, colour in (("dcl_tau1", BLUE), ("nscl_tau1", ORANGE)):
            losses.plot([row["step"] for row in curve], [row[name] for row in curve], color=colour, label=name[:-5])
        losses.set(xlabel="step of DCL training", ylabel="loss at temperature 1, nats")
        losses.set_title(f"The losses go together: r = {found['loss_correlation']:.3f}")
        for loss, colour in (("dcl", BLUE), ("nscl", ORANGE)):
            rows = found["geometry"][loss]
            for name, style in (("V", "-"), ("V_dir", "--")):
                label = f"{'CDNV' if name == 'V' else 'directional CDNV'}, trained with {loss.upper()}"
                geometry.plot([r["epoch"] for r in rows], [r[name] for r in rows], style, color=colour, label=label)
        geometry.set(yscale="log", xlabel="epoch", title="NSCL alone goes on closing its classes")
        for axes in (gap, losses, geometry):
            axes.legend(frameon=False, fontsize=8)
        save(figure, path, 120)


def study_all(study: Study) -> dict:
    """Train, measure, write study.json and study.png."""
    if study.train.save_every < 1 or study.train.epochs % study.train.save_every:
        raise UserError("--train.epochs must be a multiple of --train.save-every: the last epoch has to be kept")
    found = findings(study, train_all(study))
    write_json(study.out / "study.json", found)
    draw(found, study.out / "study.png")
    return found


@exits_cleanly
def main() -> None:
    study = tyro.cli(Study, description="\n ".join(__doc__.splitlines()))
    found = study_all(study)
    for gap in found["gaps"]:
        print(f"{gap['classes']:>4} classes: gap {gap['first']:.4f} -> {gap['last']:.4f}, bound {gap['bound']:.4f}")
    bound = f"correlation with its bound {found['gap_bound_correlation']:.3f}"
    print(f"1. the gap goes as classes^{found['gap_slope']:.2f}; {bound}")
    print(f"2. DCL and NSCL during DCL training: correlation {found['loss_correlation']:.4f}")
    for loss, fall in found["fall"].items():
        for since, by in fall.items():
            ratios = f"CDNV / {by['V']:.1f}, directional CDNV / {by['V_dir']:.1f}"
            print(f"3. trained with {loss.upper()}, since {since.replace('_', ' ')}: {ratios}")
    print(f"{study.out / 'study.json'}\n{study.out / 'study.png'}")


if __name__ == "__main__":
    main()
