"""Checkpoints: one safetensors file each, written aside, synced and renamed, so that a crash never leaves half of one.

Tensors of nested state dicts are stored under their path ("optimizer/state/3/momentum_buffer"); everything else goes
as JSON into the file's header, with the identity of the run and a SHA-256 of all content. Nothing is pickled.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from fastvarcon.errors import UserError
from fastvarcon.run_folder import CHECKPOINT_FILE, RunFolder


class Snapshot(NamedTuple):
    """A state as it was at one moment, in host memory."""

    tensors: dict[str, torch.Tensor]
    skeleton: str
    """JSON of everything that is no tensor."""
    ready: torch.cuda.Event | None
    """On a GPU the copies are under way until this has happened."""


def snapshot(state: dict, reuse: dict[str, torch.Tensor] | None = None) -> Snapshot:
    """Copy `state`, a nested dict or list of tensors and JSON values. Does not wait for the device.

    reuse: tensors of an earlier snapshot that may be overwritten. Fresh memory costs more than the copy itself.
    """
    tensors: dict[str, torch.Tensor] = {}
    skeleton = json.dumps(_take_tensors(state, "", tensors))
    on_gpu = any(tensor.is_cuda for tensor in tensors.values())
    copies = {name: _copy(tensor.detach(), (reuse or {}).get(name)) for name, tensor in tensors.items()}
    return Snapshot(copies, skeleton, torch.cuda.current_stream().record_event() if on_gpu else None)


def _copy(tensor: torch.Tensor, buffer: torch.Tensor | None) -> torch.Tensor:
    """On the host, pinned where it comes from a GPU."""
    if buffer is None or buffer.shape != tensor.shape or buffer.dtype != tensor.dtype:
        return tensor.to("cpu", non_blocking=True, copy=True)
    return buffer.copy_(tensor, non_blocking=True)


def write_checkpoint(folder: Path, content: Snapshot, run: str, previous: Path | None = None) -> None:
    """Write folder/checkpoint.safetensors, atomically; the file that it replaces moves to the folder `previous`."""
    if content.ready is not None:
        content.ready.synchronize()
    tensors = {name: tensor.contiguous() for name, tensor in content.tensors.items()}
    digest = _digest(run, content.skeleton, tensors)
    path, aside = folder / CHECKPOINT_FILE, folder / f"{CHECKPOINT_FILE}.partial"
    folder.mkdir(parents=True, exist_ok=True)
    _write_aside(aside, tensors, {"state": content.skeleton, "run": run, "sha256": digest})
    if previous is not None and path.exists():
        previous.mkdir(exist_ok=True)
        os.replace(path, previous / CHECKPOINT_FILE)
        _sync_folder(previous)
    os.replace(aside, path)
    _sync_folder(folder)


def save_checkpoint(folder: Path, state: dict, run: str = "") -> None:
    """`write_checkpoint` of a state as it is now."""
    write_checkpoint(folder, snapshot(state), run)


def load_checkpoint(folder: Path, run: str | None = None, earlier: str | None = None) -> dict:
    """Read back a state, tensors on the CPU; that of any run, or of `run` alone.

    earlier: the identity that an earlier version gave the same run.

    Raises:
        UserError: a missing or damaged file, or one that another run has written.
    """
    path = folder / CHECKPOINT_FILE
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if header["sha256"] != _digest(header["run"], header["state"], tensors):
            raise ValueError("its content has changed since it was written")
        state = _put_tensors(json.loads(header["state"]), tensors)
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(
            f"{path} is not a whole checkpoint ({error}): remove the folder {folder} to do without it"
        ) from None
    if run is not None and header["run"] not in (run, earlier):
        raise UserError(f"{path} belongs to a run of other settings: remove the folder {folder} to do without it")
    return state


def load_newest(folder: RunFolder, run: str, warn: Callable[[str], None], earlier: str | None = None) -> dict:
    """The newest checkpoint that is whole and of this run; tells `warn` of each that was passed over.

    Raises:
        UserError: there is none.
    """
    candidates = folder.checkpoints()
    for candidate in candidates:
        try:
            return load_checkpoint(candidate, run, earlier)
        except UserError as error:
            if candidate == candidates[-1]:
                raise
            warn(f"{error}; trying an older one")
    raise UserError(f"{folder.path} has no checkpoint")


def save_tensors(path: Path, tensors: dict[str, torch.Tensor]) -> None:
    """A safetensors file under its final name only when it is whole and on disk."""
    aside = path.with_name(path.name + ".partial")
    _write_aside(aside, {name: tensor.contiguous().clone() for name, tensor in tensors.items()}, None)
    os.replace(aside, path)
    _sync_folder(path.parent)


def _write_aside(aside: Path, tensors: dict[str, torch.Tensor], metadata: dict[str, str] | None) -> None:
    """The whole file, on disk. Raises OSError and leaves nothing if it does not fit."""
    try:
        save_file(tensors, aside, metadata)
        aside.chmod(0o644)  # safetensors makes files that only their owner can read
        with open(aside, "rb+") as file:
            os.fsync(file.fileno())
    except (OSError, SafetensorError) as error:
        aside.unlink(missing_ok=True)
        raise error if isinstance(error, OSError) else OSError(str(error)) from error


def _sync_folder(folder: Path) -> None:
    """A new name has to reach the disk too."""
    if hasattr(os, "O_DIRECTORY"):
        handle = os.open(folder, os.O_DIRECTORY)
        os.fsync(handle)
        os.close(handle)


def _digest(run: str, skeleton: str, tensors: dict[str, torch.Tensor]) -> str:
    digest = hashlib.sha256(f"{run}\n{skeleton}\n".encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _take_tensors(node: object, path: str, tensors: dict[str, torch.Tensor]) -> dict[str, Any]:
    """The JSON skeleton of `node`; tensors move to `tensors` and leave {"tensor": path}, dict keys keep their type."""
    if isinstance(node, torch.Tensor):
        tensors[path] = node
        return {"tensor": path}
    if isinstance(node, dict):
        return {"dict": [[key, _take_tensors(value, f"{path}/{key}", tensors)] for key, value in node.items()]}
    if isinstance(node, (list, tuple)):
        return {"list": [_take_tensors(value, f"{path}/{index}", tensors) for index, value in enumerate(node)]}
    return {"value": node}


def _put_tensors(node: dict, tensors: dict[str, torch.Tensor]) -> Any:
    [(kind, content)] = node.items()
    if kind == "tensor":
        return tensors[content]
    if kind == "dict":
        return {key: _put_tensors(value, tensors) for key, value in content}
    if kind == "list":
        return [_put_tensors(value, tensors) for value in content]
    return content
