"""Lists the samples of one WebDataset shard without reading their images."""

from __future__ import annotations

import json
import os
import re
import tarfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fastvarcon.data.image_kinds import HEAD, IMAGE_SUFFIXES, TEXT, kind_of
from fastvarcon.data.image_kinds import listed as kinds_listed
from fastvarcon.data_prep.sources.base import map_bytes
from fastvarcon.errors import UserError, reason

MEMBER_NAME = re.compile(r"(?P<key>(.*/)?[^./]+)\.(?P<field>[^/]+)", re.DOTALL)
COMPRESSED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd")
"""How gzip, bzip2, xz and zstandard files begin."""
INTEGER = re.compile(rb"\s*-?\d{1,18}\s*")


@dataclass
class TarSamples:
    """One entry per sample, in the order of their first members."""

    members: list[str] = field(default_factory=list)
    """Names of the images."""
    offsets: list[int] = field(default_factory=list)
    """Byte of the shard at which the image begins."""
    sizes: list[int] = field(default_factory=list)
    """Bytes."""
    labels: list[int] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)
    """Number of members that belong to no sample, by kind: see image_kinds."""
    tars: int = 0
    """Members that are tar files."""


class _Part(NamedTuple):
    member: str
    offset: int
    size: int

    def of(self, content: np.ndarray) -> bytes:
        return content[self.offset : self.offset + self.size].tobytes()

    def kind(self, content: np.ndarray) -> tuple[str, bool]:
        return kind_of(content[self.offset : self.offset + min(self.size, HEAD)].tobytes(), self.member)


def list_samples(path: Path) -> TarSamples:
    """Every sample with its label.

    Raises:
        UserError: a file that is compressed, truncated or damaged; a sample without image or label.
    """
    content = map_bytes(path)
    listed = TarSamples()
    samples: dict[str, dict[str, _Part]] = {}
    for member, _ in members_of(path, content):
        listed.tars += member.name.endswith(".tar")
        name = MEMBER_NAME.fullmatch(member.name)
        if name is None:
            kind, readable = _Part(member.name, member.offset_data, member.size).kind(content)
            listed.left_out["" if readable else kind] += 1
            continue
        parts = samples.setdefault(name["key"], {})
        if name["field"].lower() in parts:
            raise UserError(f"{path} holds {member.name} twice: give every sample a name of its own")
        parts[name["field"].lower()] = _Part(member.name, member.offset_data, member.size)
    for key, parts in samples.items():
        images = [part for name, part in parts.items() if f".{name}" in IMAGE_SUFFIXES]
        if not images:
            kinds = {name: part.kind(content) for name, part in parts.items()}
            images = [parts[name] for name, (_, readable) in kinds.items() if readable]
        if not images and ("cls" not in parts or any(kind != TEXT for kind, _ in kinds.values())):
            listed.left_out.update(kind for name, (kind, _) in kinds.items() if name != "cls")
            continue
        if len(images) != 1:
            raise UserError(f"{path} sample {key} has {len(images)} images ({', '.join(parts)}): a sample needs one")
        listed.members.append(images[0].member)
        listed.offsets.append(images[0].offset)
        listed.sizes.append(images[0].size)
        listed.labels.append(_label(path, key, parts, content))
    return listed


def list_images(path: Path, label: int) -> TarSamples:
    """Every image of a file without labels. Hidden ones, as Finder's shadow files, are passed over.

    Raises:
        UserError: a file that is compressed, truncated or damaged, has no images, or two of one name.
    """
    listed = TarSamples()
    seen = set()
    content = map_bytes(path)
    for member, offset in members_of(path, content):
        name = member.name.rsplit("/", 1)[-1]
        if name.startswith("."):
            continue
        if not is_image(name):
            kind, readable = _Part(member.name, offset, member.size).kind(content)
            if not readable:
                listed.left_out[kind] += 1
                continue
        if member.name in seen:
            raise UserError(f"{path} holds {member.name} twice: give every image a name of its own")
        seen.add(member.name)
        listed.members.append(member.name)
        listed.offsets.append(offset)
        listed.sizes.append(member.size)
        listed.labels.append(label)
    if not listed.members:
        found = f", only {kinds_listed(listed.left_out)}" if listed.left_out else ""
        raise UserError(f"{path} has no images that can be read{found}: remove it or fill it")
    return listed


def is_image(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES


def members_of(path: Path, content: np.ndarray | None = None) -> Iterator[tuple[tarfile.TarInfo, int]]:
    """The files in a tar and the bytes at which they begin. That each lies within it, and its end mark, is checked.

    Raises:
        UserError: it is compressed, truncated or damaged, or holds links.
    """
    content = map_bytes(path) if content is None else content
    if content[:6].tobytes().startswith(COMPRESSED):
        raise UserError(
            f"{path} is compressed: unpack it first, to a .tar if it is a shard; images gain nothing from it"
        )
    end = 0
    try:
        with tarfile.open(path, "r:", encoding="utf-8", errors="surrogateescape") as tar:
            while (member := tar.next()) is not None:
                tar.members.clear()  # type: ignore[attr-defined]  # it would keep every one of millions
                if member.offset < end or not 0 <= member.size <= content.size - member.offset_data:
                    raise _damaged(path, member.offset)
                end = member.offset_data + member.size
                if member.isdir():
                    continue
                if not member.isreg() or member.issparse():
                    raise UserError(
                        f"{path} member {member.name} is a link or no plain file: write the shard without such"
                    )
                yield member, member.offset_data
            end = tar.offset
    except (UserError, GeneratorExit):
        raise
    except Exception as error:  # damaged headers fail in any way
        raise UserError(f"{path} is not a whole tar file ({reason(error)}): fetch it again") from None
    if content.size - end < tarfile.BLOCKSIZE or content[end:].any():
        raise _damaged(path, end)


def _damaged(path: Path, offset: int) -> UserError:
    return UserError(f"{path} is not a whole tar file (truncated or damaged at byte {offset}): fetch it again")


def _label(path: Path, key: str, parts: dict[str, _Part], content: np.ndarray) -> int:
    if "cls" in parts:
        text = parts["cls"].of(content)
        if INTEGER.fullmatch(text):
            return int(text)
        raise UserError(f"{path} member {parts['cls'].member} is not an integer: write the label in digits")
    if "json" in parts:
        try:
            label = json.loads(parts["json"].of(content))["label"]
        except (ValueError, KeyError, TypeError, IndexError, RecursionError):
            label = None
        if type(label) is int and abs(label) < 2**63:
            return label
        raise UserError(f'{path} member {parts["json"].member} has no integer "label": add one, or a {key}.cls')
    raise UserError(
        f'{path} sample {key} has no label: add {key}.cls, or {key}.json with an integer "label"; where each tar holds '
        "one class, give the folder of them all"
    )
