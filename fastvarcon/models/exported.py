"""An encoder on disk: what a file of weights does not say, and where to find both.

A run folder keeps it in `config.json` beside `encoder.safetensors`. An export (`fastvarcon export`) is a folder whose
`model.safetensors` carries it in its own header, as JSON under the key "fastvarcon", so that the file alone is enough.
The weights bear the same names in both: those of a torchvision ResNet without its `fc`, or timm's without a classifier.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path

from fastvarcon.config import TIMM, Config, Interpolation
from fastvarcon.errors import UserError
from fastvarcon.models.weights import metadata_in

EXPORT_FILE = "model.safetensors"
HEADER = "fastvarcon"


@dataclass(frozen=True)
class EncoderSpec:
    """How an encoder is built, and what the images look like that it was trained for."""

    encoder: str
    """Name as in ModelConfig."""
    width: float
    small_images: bool
    size: int
    """Side of an image in pixels."""
    eval_resize: int
    """Pixels of the shorter side before the centre crop of `size` x `size`."""
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    """Normalisation, in [0, 1] units."""
    interpolation: Interpolation
    """With which images are resized: bilinear or bicubic, antialiased."""

    @classmethod
    def of_config(cls, config: Config) -> EncoderSpec:
        model, data = config.model, config.data
        return cls(
            model.encoder,
            model.width,
            model.small_images,
            data.size,
            data.eval_resize,
            data.mean,
            data.std,
            data.interpolation,
        )

    @property
    def is_stock(self) -> bool:
        """The network is timm's of the same name, and torchvision's unless `is_timm`."""
        return self.width == 1.0 and not self.small_images

    @property
    def is_timm(self) -> bool:
        """The network comes from timm, and torchvision has none like it."""
        return self.encoder.startswith(TIMM)

    def header(self) -> dict[str, str]:
        """Metadata of a safetensors file."""
        return {"format": "pt", HEADER: json.dumps(dataclasses.asdict(self))}


def find_encoder(path: Path) -> tuple[EncoderSpec, Path]:
    """What the encoder of a run folder, of an export folder or of its `model.safetensors` is, and its file of weights.

    Raises:
        UserError: nothing of the kind, or not whole.
    """
    exported = path if path.is_file() else path / EXPORT_FILE
    if exported.exists():
        return _spec_of_export(exported), exported
    spec = EncoderSpec.of_config(Config.load(path / "config.json"))
    weights = path / "encoder.safetensors"
    if not weights.exists():
        raise UserError(f"{weights} is missing: train {path} for at least one epoch first")
    return spec, weights


KEYS = {
    **{name: f"model.{name}" for name in ("encoder", "width", "small_images")},
    **{name: f"data.{name}" for name in ("size", "eval_resize", "mean", "std", "interpolation")},
}
"""Of the header -> of a run's configuration, whose types and ranges hold for it too."""


def _spec_of_export(path: Path) -> EncoderSpec:
    try:
        header = metadata_in(path).get(HEADER)
        if header is None:
            raise ValueError(f"its header has no {HEADER!r}")
        fields = json.loads(header)
        if not isinstance(fields, dict) or fields.keys() != KEYS.keys():
            raise ValueError(f"its header does not say {', '.join(KEYS)}")
        flat = {KEYS[name]: value for name, value in fields.items()}
        return EncoderSpec.of_config(Config.from_flat(flat, Path("its header")))
    except (ValueError, RecursionError) as error:
        reason = "its header is too deeply nested" if isinstance(error, RecursionError) else error
        raise UserError(
            f"{path} is not an encoder that `fastvarcon export` wrote ({reason}): give a run folder or an export of one"
        ) from None
