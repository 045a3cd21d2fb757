"""Tensors of a file for a network that is built for them: nothing is built before the file is known to fit.

A width in a header costs nothing to write down, and a network of that width may take more memory than there is. So the
network is made without memory first (torch's device "meta"), and its shapes are compared with those of the file.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load
from torch import Tensor, nn

from fastvarcon.errors import UserError

CLASSIFIERS = ("fc.", "classifier.", "head.", "heads.", "AuxLogits.", "aux")
"""Names of tensors that features do without."""


def read_tensors(path: Path) -> tuple[dict[str, Tensor], str]:
    """The tensors of a safetensors file and the SHA-256 of it, read once: a training may replace it at any time.

    Raises:
        UserError: a file that cannot be read or is not whole.
    """
    shapes_in(path)  # of a file that is something else, however large, no more than the header is read
    try:
        content = path.read_bytes()
        return load(content), hashlib.sha256(content).hexdigest()
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror or error}): make it readable") from None
    except (SafetensorError, KeyError, ValueError, RuntimeError, MemoryError) as error:  # KeyError: an unknown dtype
        raise not_whole(path, error) from None


def read_some(path: Path, names: Sequence[str]) -> list[Tensor]:
    """Some tensors of a large file. Raises UserError as `read_tensors`, and for one that the file lacks."""
    lacking = [name for name in names if name not in shapes_in(path)]
    if lacking:
        raise UserError(f"{path} lacks the tensor {lacking[0]}: train that run again")
    try:
        with safe_open(path, framework="pt") as file:
            return [file.get_tensor(name) for name in names]
    except (OSError, SafetensorError) as error:
        raise not_whole(path, error) from None


def shapes_in(path: Path) -> dict[str, tuple[int, ...]]:
    """Names and shapes, of the header alone. Raises UserError as `read_tensors`."""
    try:
        with safe_open(path, framework="pt") as file:
            return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise not_whole(path, error) from None


def metadata_in(path: Path) -> dict[str, str]:
    """Texts in the header of a safetensors file. Raises UserError as `read_tensors`."""
    try:
        with safe_open(path, framework="pt") as file:
            return file.metadata() or {}
    except (OSError, SafetensorError) as error:
        raise not_whole(path, error) from None


def not_whole(path: Path, error: Exception) -> UserError:
    return UserError(f"{path} is not a whole .safetensors file ({first_line(error)}): copy or make it again")


def filled(build: Callable[[], nn.Module], state: Mapping[str, Tensor]) -> nn.Module:
    """The network that `build` makes, with the tensors of `state`; those of a classifier may be left over.

    Raises:
        ValueError: with what does not fit, as "lacks 2 tensors ...".
    """
    with torch.device("meta"):
        expected = build().state_dict()
    if wrong := misfit(expected, state):
        raise ValueError(wrong)
    network = build()
    network.load_state_dict({name: state[name] for name in expected})
    return network


def misfit(expected: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> str | None:
    """What keeps the tensors that were found from being those of a network, in a few words; None if nothing does."""
    if missing := [name for name in expected if name not in found]:
        return f"lacks {_some(missing)} of the architecture"
    if foreign := [name for name in found if name not in expected and not name.startswith(CLASSIFIERS)]:
        return f"has {_some(foreign)} that the architecture lacks"
    for name, tensor in expected.items():
        if found[name].shape != tensor.shape:
            return f"does not fit the architecture: {name} is {_shape(found[name])}, not {_shape(tensor)}"
        if found[name].is_floating_point() != tensor.is_floating_point() or found[name].is_complex():
            return f"does not fit the architecture: {name} holds {found[name].dtype}, not {tensor.dtype}"
    return None


def _some(names: Sequence[str]) -> str:
    return f"{len(names)} tensors ({names[0]} among them)" if len(names) > 1 else f"1 tensor ({names[0]})"


def _shape(tensor: Tensor) -> str:
    return " x ".join(map(str, tensor.shape)) or "a single number"


def first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
