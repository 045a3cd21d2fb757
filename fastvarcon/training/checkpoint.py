"""Checkpoints: one safetensors file each, written aside, synced and renamed, so that a crash never leaves half of one.

Tensors of nested state dicts are stored under their path ("optimizer/state/3/momentum_buffer"); everything else goes
as JSON into the file's header. Nothing is pickled.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from fastvarcon.errors import UserError
from fastvarcon.run_folder import CHECKPOINT_FILE


def save_checkpoint(folder: Path, state: dict) -> None:
    """Write `state`, a nested dict or list of tensors and JSON values, to folder/checkpoint.safetensors, atomically."""
    tensors: dict[str, torch.Tensor] = {}
    skeleton = _take_tensors(state, "", tensors)
    folder.mkdir(parents=True, exist_ok=True)
    save_tensors(folder / CHECKPOINT_FILE, tensors, {"state": json.dumps(skeleton)})


def load_checkpoint(folder: Path) -> dict:
    """Read back what `save_checkpoint` wrote, tensors on the CPU. Raises UserError for a missing or damaged file."""
    path = folder / CHECKPOINT_FILE
    try:
        with safe_open(path, framework="pt") as file:
            skeleton = json.loads(file.metadata()["state"])
            return _put_tensors(skeleton, {name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path} is not a whole checkpoint ({error}): remove the folder {folder} to start again"
        ) from None


def save_tensors(path: Path, tensors: dict[str, torch.Tensor], metadata: dict[str, str] | None = None) -> None:
    """A safetensors file under its final name only when it is whole and on disk."""
    aside = path.with_name(path.name + ".partial")
    save_file({name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}, aside, metadata)
    aside.chmod(0o644)  # safetensors makes files that only their owner can read
    with open(aside, "rb+") as file:
        os.fsync(file.fileno())
    os.replace(aside, path)
    if hasattr(os, "O_DIRECTORY"):  # the new name has to reach the disk too
        folder = os.open(path.parent, os.O_DIRECTORY)
        os.fsync(folder)
        os.close(folder)


def _take_tensors(node, path: str, tensors: dict[str, torch.Tensor]):
    """The JSON skeleton of `node`; tensors move to `tensors` and leave {"tensor": path}, dict keys keep their type."""
    if isinstance(node, torch.Tensor):
        tensors[path] = node
        return {"tensor": path}
    if isinstance(node, dict):
        return {"dict": [[key, _take_tensors(value, f"{path}/{key}", tensors)] for key, value in node.items()]}
    if isinstance(node, (list, tuple)):
        return {"list": [_take_tensors(value, f"{path}/{index}", tensors) for index, value in enumerate(node)]}
    return {"value": node}


def _put_tensors(node: dict, tensors: dict[str, torch.Tensor]):
    [(kind, content)] = node.items()
    if kind == "tensor":
        return tensors[content]
    if kind == "dict":
        return {key: _put_tensors(value, tensors) for key, value in content}
    if kind == "list":
        return [_put_tensors(value, tensors) for value in content]
    return content
