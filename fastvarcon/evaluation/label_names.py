"""Which classes the label numbers of a published set mean: by the names that the set defines, in its own order."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from pathlib import Path

from fastvarcon.errors import UserError
from fastvarcon.json_file import read_text

NAMES_FILE = "classes.txt"
CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
CIFAR100 = (
    "apple", "aquarium_fish", "baby", "bear", "beaver", "bed", "bee", "beetle", "bicycle", "bottle", "bowl", "boy",
    "bridge", "bus", "butterfly", "camel", "can", "castle", "caterpillar", "cattle", "chair", "chimpanzee", "clock",
    "cloud", "cockroach", "couch", "crab", "crocodile", "cup", "dinosaur", "dolphin", "elephant", "flatfish", "forest",
    "fox", "girl", "hamster", "house", "kangaroo", "keyboard", "lamp", "lawn_mower", "leopard", "lion", "lizard",
    "lobster", "man", "maple_tree", "motorcycle", "mountain", "mouse", "mushroom", "oak_tree", "orange", "orchid",
    "otter", "palm_tree", "pear", "pickup_truck", "pine_tree", "plain", "plate", "poppy", "porcupine", "possum",
    "rabbit", "raccoon", "ray", "road", "rocket", "rose", "sea", "seal", "shark", "shrew", "skunk", "skyscraper",
    "snail", "snake", "spider", "squirrel", "streetcar", "sunflower", "sweet_pepper", "table", "tank", "telephone",
    "television", "tiger", "tractor", "train", "trout", "tulip", "turtle", "wardrobe", "whale", "willow_tree", "wolf",
    "woman", "worm",
)  # fmt: skip
"""The order of batches.meta and of the fine labels in meta, as their authors publish them."""
OTHER_NAMES = {
    "plane": "airplane",
    "aeroplane": "airplane",
    "car": "automobile",
    "auto": "automobile",
    "boat": "ship",
    "lorry": "truck",
    "mower": "lawnmower",
    "maple": "mapletree",
    "oak": "oaktree",
    "palm": "palmtree",
    "pine": "pinetree",
    "willow": "willowtree",
    "sofa": "couch",
    "lawnmover": "lawnmower",
}


def label_names(folder: Path, ours: Sequence[str]) -> list[str]:
    """The class of `ours` that each label number of the arrays in `folder` means, in the order of the numbers.

    In this order: what folder/classes.txt says, a name a line; classes of ours that are numbers themselves; CIFAR-10
    and CIFAR-100, if the names of ours are those of one of them.

    Raises:
        UserError: none of this.
    """
    file = folder / NAMES_FILE
    if file.exists():
        return [line.strip() for line in read_text(file, "write a class a line").splitlines() if line.strip()]
    numbers = {int(name): name for name in ours if name.isdecimal() and len(name) < 10}
    if numbers.keys() == set(range(len(ours))):
        return [numbers[index] for index in range(len(ours))]
    for official in (CIFAR10, CIFAR100):
        spelt = {_plain(name): name for name in ours}
        if len(ours) == len(official) and spelt.keys() == set(map(_plain, official)):
            return [spelt[_plain(name)] for name in official]
    shown = ", ".join(map(repr, ours[:3])) + (", ..." if len(ours) > 3 else "")
    raise UserError(
        f"{folder}/labels.npy holds numbers, and which of the training classes ({shown}) each of them means is not "
        f"known: write the {len(ours)} names into {file}, in the order of the numbers, one a line"
    )


def _plain(name: str) -> str:
    """Letters and digits alone; one of several names of a class of CIFAR."""
    letters = "".join(filter(str.isalnum, unicodedata.normalize("NFC", name).casefold()))
    return OTHER_NAMES.get(letters, letters)
