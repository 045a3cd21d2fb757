"""The model card of an export: what the encoder is, how to load it, what it scores, and the commands that made it."""

from __future__ import annotations

import json
from pathlib import Path

from fastvarcon.config import Config
from fastvarcon.models.exported import EXPORT_FILE, EncoderSpec
from fastvarcon.progress import format_seconds
from fastvarcon.reporting.scored import Scored
from fastvarcon.reporting.tables import ScoreRow, between, percent, score_rows
from fastvarcon.reporting.titles import LOSS_TITLES
from fastvarcon.visible import visible

FASTVARCON = """\
from fastvarcon import load_encoder
encoder = load_encoder("{folder}")  # eval mode
"""
TORCHVISION = """\
import torch, torchvision
from safetensors.torch import load_file
encoder = torchvision.models.{name}(weights=None)
encoder.fc = torch.nn.Identity()  # features instead of classes
encoder.load_state_dict(load_file("{folder}/{weights}"), strict=True)
encoder.eval()
"""
TIMM = """\
import timm
encoder = timm.create_model("local-dir:{folder}", pretrained=True).eval()
"""
ONNX = """\
import onnxruntime
encoder = onnxruntime.InferenceSession("{folder}/encoder.onnx")
[features] = encoder.run(None, {{"images": images}})  # float32 [N, 3, {size}, {size}]
"""


def model_card(
    scored: Scored, config: Config, spec: EncoderSpec, feature_dim: int, target: str, folder: str, command: str
) -> str:
    """README.md of the export of a run to `target` as folder `folder`."""
    parts = [
        _front_matter(scored, config, spec) if target == "hub-folder" else "",
        f"# {spec.encoder}, {LOSS_TITLES[config.loss.name]}\n",
        _what(spec, feature_dim, config),
        "## Use\n",
        *(f"```python\n{code}```\n" for code in _snippets(spec, target, folder)),
        _preparation(spec),
        _scores(score_rows(scored)),
        _training(scored.summary),
        f"Exported by `{visible(command)}`.\n",
        "## All settings of the training\n",
        "```\n" + "".join(f"--{key} {visible(str(value))}\n" for key, value in config.flat().items()) + "```\n",
    ]
    return "\n".join(part for part in parts if part)


def _what(spec: EncoderSpec, feature_dim: int, config: Config) -> str:
    width = "" if spec.is_timm else f" of width {spec.width:g}"
    stem = ", 3x3 stem without pooling for small images" if spec.small_images else ""
    return (
        f"Image encoder, {spec.encoder}{width}{stem}: images [N, 3, {spec.size}, {spec.size}] to "
        f"features [N, {feature_dim}]. Trained by fastvarcon with the {LOSS_TITLES[config.loss.name]} loss; its "
        "projection head is left out.\n"
    )


def _snippets(spec: EncoderSpec, target: str, folder: str) -> list[str]:
    """Ways to load the export: that of the target first."""
    codes = {"torchvision": TORCHVISION, "timm": TIMM, "onnx": ONNX}
    own = [codes[target]] if target in codes else []
    if target == "hub-folder" and spec.is_stock:
        own = [TIMM] if spec.is_timm else [TIMM, TORCHVISION]
    texts = [*own, FASTVARCON]
    return [text.format(folder=folder, name=spec.encoder, weights=EXPORT_FILE, size=spec.size) for text in texts]


def _preparation(spec: EncoderSpec) -> str:
    return (
        f"Images are RGB in [0, 1], their shorter side resized to {spec.eval_resize} px ({spec.interpolation}, "
        f"antialiased), the centre {spec.size} x {spec.size} cut out, then normalised with mean {list(spec.mean)} and "
        f"standard deviation {list(spec.std)}.\n"
    )


def _scores(scores: list[ScoreRow]) -> str:
    if not scores:
        return "## Scores\n\nNone were taken before the export.\n"
    rows = [
        (
            _cell(row.what),
            percent(row.top1, row.spread),
            between(row.interval),
            "" if row.top5 is None else percent(row.top5),
            f"{row.num_val:,}",
            _cell(row.protocol),
            f"`{_cell(row.command)}`",
        )
        for row in scores
    ]
    head = ("score", "top-1", "95 % interval", "top-5", "held-out images", "protocol", "command")
    lines = [f"| {' | '.join(cells)} |" for cells in (head, ("---",) * len(head), *rows)]
    return "## Scores\n\n" + "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    """Of a table in Markdown."""
    return visible(text).replace("|", "\\|")


def _training(summary: dict | None) -> str:
    if summary is None:
        return "## Training\n\nNot finished when this was exported.\n"
    versions = ", ".join(f"{name} {version}" for name, version in summary["versions"].items())
    return (
        f"## Training\n\n{summary['epochs']} epochs, global batch {summary['global_batch']}, "
        f"{summary['world_size']} process(es) on {summary['device_name']}, {format_seconds(summary['seconds'])} "
        f"of training, final loss {summary['final_loss']:.4f}. Versions: {versions}.\n\n"
        f"    {visible(summary['command'])}\n"
    )


def _front_matter(scored: Scored, config: Config, spec: EncoderSpec) -> str:
    """The YAML that the hub reads. JSON is YAML too, and quotes whatever a path or a command may hold."""
    results = [
        {
            "task": {"type": "image-classification"},
            "dataset": {"name": _name(config.data.val), "type": _name(config.data.val)},
            "metrics": [{"type": "accuracy", "name": f"{score['name']} top-1", "value": score["top1"]}],
        }
        for stem, score in sorted(scored.scores.items())
        if "top1" in score and score["features"] == "encoder" and stem not in scored.stale
    ]
    fields: dict[str, object] = {
        "library_name": "timm" if spec.is_stock else "fastvarcon",
        "pipeline_tag": "image-feature-extraction",
        "tags": ["fastvarcon", "image-feature-extraction", "supervised-contrastive-learning", config.loss.name],
    }
    if results:
        fields["model-index"] = [{"name": f"{spec.encoder}-{config.loss.name}", "results": results}]
    return "---\n" + "".join(f"{key}: {json.dumps(value)}\n" for key, value in fields.items()) + "---\n"


def _name(path: Path | None) -> str:
    return "held-out images" if path is None else path.stem
