"""Folders and files below a folder, links followed: none is entered twice, and no dead link is passed over."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from fastvarcon.errors import UserError, reason


def entries(folder: Path | str) -> list[os.DirEntry[str]]:
    """What `folder` holds, sorted by name, without hidden files.

    Raises:
        UserError: it cannot be read.
    """
    try:
        with os.scandir(folder) as found:
            return sorted((entry for entry in found if not entry.name.startswith(".")), key=lambda entry: entry.name)
    except OSError as error:
        raise UserError(f"{folder} cannot be read ({reason(error)}): correct its permissions or leave it out") from None


def leads_nowhere(entry: os.DirEntry[str]) -> bool:
    """Whether it is a link to something that is not there, or to itself."""
    return entry.is_symlink() and not os.path.exists(entry.path)


def is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether it is a folder, or a link to one."""
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def refuse_dead_link(entry: os.DirEntry[str]) -> None:
    """Raises UserError for a link that leads nowhere: what it stood for would be missing without a word."""
    if leads_nowhere(entry):
        raise UserError(
            f"{entry.path} is a link to {os.readlink(entry.path)}, which is not there: restore that (is a disk not "
            "mounted?) or remove the link"
        )


def refuse_link_back(entry: os.DirEntry[str], root: Path) -> None:
    """Raises UserError for a link in `root` to it or to a folder above: nearly anything would be below it."""
    if entry.is_symlink() and leads_back(entry.path, os.path.realpath(root)):
        raise UserError(f"{entry.path} is a link to {root} itself: remove the link")


class FolderWalk:
    """Walks several folders, one after the other, each once."""

    def __init__(self) -> None:
        self._entered: dict[tuple[int, int], tuple[str, Path]] = {}
        """Device and number of every folder entered -> its path, and the top folder below which it was."""

    def files(self, top: Path) -> Iterator[os.DirEntry[str]]:
        """Every file below `top`, at any depth. A link back into `top` is passed over.

        Raises:
            UserError: a folder that cannot be read, that was entered below another top folder, or is above `top`.
        """
        real_top = os.path.realpath(top)
        todo = [str(top)]
        while todo:
            folder = todo.pop()
            if not self._enter(folder, top):
                continue
            for entry in entries(folder):
                if not is_folder(entry):
                    yield entry
                elif not (entry.is_symlink() and leads_back(entry.path, real_top)):
                    todo.append(entry.path)

    def _enter(self, folder: str, top: Path) -> bool:
        try:
            status = os.stat(folder)
        except OSError as error:
            raise UserError(f"{folder} cannot be read ({reason(error)}): fetch it again") from None
        earlier, of = self._entered.setdefault((status.st_dev, status.st_ino), (folder, top))
        if of != top:
            raise UserError(f"{folder} and {earlier} are one folder, by a link, but two classes: remove one of them")
        return earlier == folder


def leads_back(link: str, real_top: str) -> bool:
    """Whether a link leads back to `real_top`. Raises UserError if it leads higher, to what is beside it."""
    target = os.path.realpath(link)
    if real_top != target and real_top.startswith(os.path.join(target, "")):
        raise UserError(f"{link} is a link to {target}, which is above it: remove the link")
    return target == real_top
