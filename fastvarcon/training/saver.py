"""Saves in the background: training waits for a copy to host memory, a thread does the rest.

A save that fails, on a full disk say, leaves the last good checkpoint as it is and is reported; training goes on.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

import torch

from fastvarcon.errors import UserError
from fastvarcon.run_folder import CHECKPOINT_FILE, RunFolder
from fastvarcon.training.checkpoint import Snapshot, load_checkpoint, save_tensors, snapshot, write_checkpoint


class Saver:
    """Writes checkpoints/last, and what else belongs to it, one save at a time.

    Args:
        run: identity of the run, for the checkpoints.
        keep: how many checkpoints epoch-NNN stay; 0 = all.
        warn: is told of a failed save, in the thread that calls `save`.
        last_is_good: checkpoints/last has just been read and is intact.

    Attributes:
        waited: seconds for which the training has waited for saves.
    """

    def __init__(
        self, folder: RunFolder, run: str, keep: int, warn: Callable[[str], None], *, last_is_good: bool = False
    ):
        self.waited = 0.0
        self._good = _stamp(folder.last) if last_is_good else None
        """State of the file of checkpoints/last when it was known to be intact."""
        self._folder, self._run, self._keep, self._warn = folder, run, keep, warn
        self._memory: dict[str, torch.Tensor] = {}
        self._thread: threading.Thread | None = None
        self._error: Exception | None = None

    def save(self, state: dict, *, encoder: str | None = None, kept_epoch: int | None = None) -> None:
        """Save `state` as it is now to checkpoints/last, behind the save that is under way, if any.

        encoder: path within `state` of the encoder to export to encoder.safetensors ("/model/encoder.").
        kept_epoch: write checkpoints/epoch-NNN as well.
        """
        begin = time.perf_counter()
        error = self.wait()
        if error is not None:
            self._warn(f"checkpoint not saved ({error}): the last good one stays, training goes on")
        content = snapshot(state, self._memory)
        self._memory = content.tensors
        self._thread = threading.Thread(
            target=self._write, args=(content, encoder, kept_epoch), name="fastvarcon-saver"
        )
        self._thread.start()
        self.waited += time.perf_counter() - begin

    def finish(self) -> None:
        """Wait until everything is on disk. Raises UserError if the last save failed."""
        begin = time.perf_counter()
        error = self.wait()
        self.waited += time.perf_counter() - begin
        if error is not None:
            raise UserError(
                f"{self._folder.path} lacks the last part of the run ({error}): free some space and run the same "
                "command again"
            )

    @property
    def busy(self) -> bool:
        """A save is under way: another one would wait for it."""
        return self._thread is not None and self._thread.is_alive()

    def wait(self) -> OSError | None:
        """Wait for the save under way; returns the refusal of the disk that it met."""
        if self._thread is not None:
            self._thread.join()
        error, self._thread, self._error = self._error, None, None
        if error is not None and not isinstance(error, OSError):
            raise error
        return error

    # ---- in the background thread ----------------------------------------------------------------------------------

    def _write(self, content: Snapshot, encoder: str | None, kept_epoch: int | None) -> None:
        folder = self._folder
        try:
            previous = folder.previous if self._last_is_good() else None
            write_checkpoint(folder.last, content, self._run, previous=previous)
            self._good = _stamp(folder.last)
            if encoder is not None:
                weights = {k.removeprefix(encoder): t for k, t in content.tensors.items() if k.startswith(encoder)}
                save_tensors(folder.encoder, weights)
            if kept_epoch is not None:
                write_checkpoint(folder.kept(kept_epoch), content, self._run)
                if self._keep:
                    folder.drop_kept(self._keep)
        except Exception as error:  # raised again where the training waits
            self._error = error

    def _last_is_good(self) -> bool:
        """What replaces checkpoints/previous must be intact: read again unless it is as this process left it."""
        if self._good is not None and _stamp(self._folder.last) == self._good:
            return True
        try:
            load_checkpoint(self._folder.last, self._run)
        except UserError:
            return False
        return True


def _stamp(folder: Path) -> tuple[int, int, int] | None:
    try:
        status = (folder / CHECKPOINT_FILE).stat()
    except OSError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns
