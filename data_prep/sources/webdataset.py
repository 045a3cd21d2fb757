"""WebDataset shards: tar files in which the members of one sample share a name, KEY.jpg with KEY.cls or KEY.json.

KEY goes up to the first dot of the file name. A label is KEY.cls, an integer in ASCII, else "label" in KEY.json. The
names of the classes come from classes.txt, one a line, or classes.json, a list or {"classes": [...]}, beside the
shards, or from dataset.json where this program wrote them; where there is none, classes are numbers.
"""

from __future__ import annotations

import json
from pathlib import Path

from fastvarcon.data.image_kinds import listed
from fastvarcon.data.tar_shards import HEAD
from fastvarcon.data_prep.sources.base import class_names, read_text, short_name
from fastvarcon.data_prep.sources.shards import find_shards
from fastvarcon.data_prep.sources.tar_samples import list_samples
from fastvarcon.data_prep.sources.tar_source import SUFFIXES, TarSource
from fastvarcon.errors import UserError

LISTS = ("classes.txt", "classes.json", HEAD)
"""Files beside the shards that name the classes; the last one `fastvarcon convert --format tar` writes."""


class WebdatasetSource(TarSource):
    """One shard, those of a folder, or those of a pattern such as train-{0000..0012}.tar.

    The shards are read once to list them, header by header.

    Raises:
        UserError: a shard that is missing, compressed, truncated or damaged; a sample without image or label.
    """

    def __init__(self, path: Path, split: str | None):
        self.name = short_name(path)
        self._set_files(*find_shards(path, split, SUFFIXES))
        shards = [list_samples(file) for file in self._files]
        self._set_samples(shards)
        if any(shard.tars for shard in shards) and len(self.labels) == 0:
            raise UserError(f"{path} holds tar files: unpack it once and give the folder of them")
        if len(self.labels) == 0:
            found = f", only {listed(self.left_out)}" if self.left_out else ""
            raise UserError(
                f"{path} holds no samples{found}: the members of a shard are named KEY.jpg and KEY.cls or KEY.json"
            )
        folder = self._files[0].parent
        self.classes = class_names(self.labels, _listed_classes(folder), self.key, folder)


def _listed_classes(folder: Path) -> list[str] | None:
    lists = {file.name: _read_list(file) for file in map(folder.joinpath, LISTS) if file.exists()}
    found = {name: names for name, names in lists.items() if names is not None}
    if len(set(map(tuple, found.values()))) > 1:
        raise UserError(f"{folder} has other classes in {' than in '.join(found)}: remove one of these lists")
    return next(iter(found.values()), None)


def _read_list(file: Path) -> list[str] | None:
    """None where HEAD is another program's file of that name."""
    try:
        text = read_text(file)
        if file.suffix == ".txt":
            return [line.strip() for line in text.strip().split("\n")]
        listed = json.loads(text)
        if file.name == HEAD and not (isinstance(listed, dict) and "records_crc32" in listed):
            return None
        names = listed["classes"] if isinstance(listed, dict) else listed
    except UserError:
        raise
    except (ValueError, KeyError, RecursionError):
        names = None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise UserError(f"{file} is no list of class names: write a JSON list of text, in the order of the labels")
    return names
