"""Which columns of a parquet file hold the images and the labels, and what its schema says of the classes."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa
from pyarrow import types

from fastvarcon.errors import UserError

IMAGE_NAMES = ("image", "img", "picture", "photo")
LABEL_NAMES = ("label", "labels", "fine_label", "fine_labels", "class", "target", "category")


def choose_image_column(file: Path, schema: pa.Schema, given: str | None) -> str:
    """The given column, else the only one that can hold images, or of such ones with a usual name, or of any length.

    Raises:
        UserError: none, or several.
    """
    fitting = [field.name for field in schema if _holds_images(field.type)]
    named = [name for name in fitting if name.lower() in IMAGE_NAMES]
    of_any_length = [name for name in fitting if not types.is_fixed_size_binary(schema.field(name).type)]
    return _choose(file, schema, "image", given, fitting, [fitting, named, of_any_length])


def choose_label_column(
    file: Path, schema: pa.Schema, with_classes: Iterable[str], given: str | None, images: str
) -> str:
    """The given column, else the only one with a list of classes, else the only one with a usual name; not `images`.

    Raises:
        UserError: none, or several.
    """
    fitting = [field.name for field in schema if _holds_labels(field.type) and field.name != images]
    listed = [name for name in fitting if name in with_classes]
    named = [name for name in fitting if name.lower() in LABEL_NAMES]
    return _choose(file, schema, "label", given, fitting, [listed, named])


def class_lists(file: Path, schema: pa.Schema) -> dict[str, list[str]]:
    """Class names by column, where the hub's library has written them into the schema.

    Raises:
        UserError: what it wrote there is damaged.
    """
    written = (schema.metadata or {}).get(b"huggingface")
    if written is None:
        return {}
    damaged = UserError(f'{file} has a damaged entry "huggingface" in its schema: fetch it again')
    try:
        features = json.loads(written)["info"]["features"]
        lists = {
            column: feature["names"]
            for column, feature in features.items()
            if isinstance(feature, dict) and feature.get("_type") == "ClassLabel"
        }
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise damaged from None
    if not all(isinstance(names, list) and all(isinstance(name, str) for name in names) for names in lists.values()):
        raise damaged
    return lists


def same_types(one: pa.Schema, other: pa.Schema, columns: Iterable[str]) -> bool:
    return all(name in other.names and one.field(name).type == other.field(name).type for name in columns)


def _holds_images(kind: pa.DataType) -> bool:
    if types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
        kind = kind.field("bytes").type
    return _is_bytes(kind)


def _holds_labels(kind: pa.DataType) -> bool:
    """Text may be stored as bytes: other writers do not mark it."""
    kind = kind.value_type if types.is_dictionary(kind) else kind
    return types.is_integer(kind) or _is_text(kind) or _is_bytes(kind)


def _is_text(kind: pa.DataType) -> bool:
    return types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind)


def _is_bytes(kind: pa.DataType) -> bool:
    forms = types.is_binary, types.is_large_binary, types.is_binary_view, types.is_fixed_size_binary
    return any(form(kind) for form in forms)


def _choose(
    file: Path, schema: pa.Schema, what: str, given: str | None, fitting: list[str], guesses: list[list[str]]
) -> str:
    if given is not None:
        guesses = [[name for name in fitting if name == given]]
    for guess in guesses:
        if len(guess) == 1:
            return guess[0]
    if not fitting:
        forms = "struct<bytes, path> or binary" if what == "image" else "integers or text"
        raise UserError(f"{file} has no column of {what}s ({forms}) among {', '.join(schema.names)}: give another file")
    wrong = "does not say which column" if given is None else f"has no column {given} that"
    raise UserError(f"{file} {wrong} holds the {what}s: choose --{what}-column from {', '.join(fitting)}")
