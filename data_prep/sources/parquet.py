"""Parquet files as the Hugging Face hub keeps image data sets: a column of encoded images and one of labels.

The image column is struct<bytes, path> or binary. The label column holds text, or integers whose names the schema may
carry under the key "huggingface". Of the images, one row group is in memory at a time.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from fastvarcon.data.class_names import one_spelling
from fastvarcon.data.decode import ImageError
from fastvarcon.data_prep.journal import FileState
from fastvarcon.data_prep.sources.base import Source, class_names, file_state, map_bytes, short_name
from fastvarcon.data_prep.sources.parquet_columns import (
    choose_image_column,
    choose_label_column,
    class_lists,
    same_types,
)
from fastvarcon.data_prep.sources.shards import find_shards
from fastvarcon.errors import UserError, reason


class ParquetSource(Source):
    """One split: a file, the files of a folder such as data/train-00000-of-00010.parquet, or those of a pattern.

    Raises:
        UserError: a file that is damaged or unlike the first, or a split or column that must be chosen.
    """

    def __init__(self, path: Path, split: str | None, image_column: str | None, label_column: str | None):
        self.name = short_name(path)
        self._files, self._names = find_shards(path, split, (".parquet",))
        self._states = [file_state(file) for file in self._files]
        self._groups: list[tuple[int, int, int]] = []
        """Row groups of all files: the file, its row group, the row of the file with which that begins."""
        starts, labels = [0], []
        for number, file in enumerate(self._files):
            opened, schema = _open(file)
            if number == 0:
                first, classes = schema, class_lists(file, schema)
                self._column = choose_image_column(file, schema, image_column)
                column = choose_label_column(file, schema, classes, label_column, self._column)
            if not same_types(first, schema, (self._column, column)):
                raise UserError(f"{file} has other columns than {self._files[0]}: choose files of one data set")
            labels.append(_read_labels(file, opened, column))
            row = 0
            for group in range(opened.num_row_groups):
                self._groups.append((number, group, row))
                rows = opened.metadata.row_group(group).num_rows
                row += rows
                starts.append(starts[-1] + rows)
        if starts[-1] == 0:
            raise UserError(f"{path} holds no rows: choose another split or file")
        self._starts = np.asarray(starts)
        """[row groups + 1] index of the first image of each."""
        self.labels, names = _numbered(labels, classes.get(column), self.key)
        self.classes = class_names(self.labels, names, self.key, f"{path}, column {column}")

    def key(self, index: int) -> str:
        slot = self._slot(index)
        file, _, first_row = self._groups[slot]
        return f"{self._names[file]} row {first_row + index - int(self._starts[slot])}"

    def read(self, index: int) -> bytes:
        slot = self._slot(index)
        try:
            cached = self._cache
            if cached is None or cached[0] != slot:
                cached = self._cache = (slot, self._row_group(slot))
            content = cached[1][index - int(self._starts[slot])].as_py()
        except Exception as error:  # damaged bytes fail in any way
            raise ImageError(f"{self.key(index)}: {reason(error)}") from None
        if content is None:
            raise ImageError(f"{self.key(index)}: no image, or only the path of one")
        return content

    def state(self, index: int) -> FileState:
        return self._states[self._groups[self._slot(index)][0]]

    def _slot(self, index: int) -> int:
        return int(np.searchsorted(self._starts, index, side="right")) - 1

    def _row_group(self, slot: int) -> pa.ChunkedArray:
        file, group, _ = self._groups[slot]
        table = _open(self._files[file])[0].read_row_group(group, columns=[self._column], use_threads=False)
        column = table.column(self._column)
        return pc.struct_field(column, "bytes") if pa.types.is_struct(column.type) else column


def _open(file: Path) -> tuple[pq.ParquetFile, pa.Schema]:
    content = map_bytes(file)  # pyarrow would take some names for addresses, and not take others
    try:
        opened = pq.ParquetFile(pa.BufferReader(pa.py_buffer(content)))
        return opened, opened.schema_arrow
    except Exception as error:  # damaged bytes fail in any way
        raise UserError(f"{file} is not a whole parquet file ({reason(error)}): fetch it again") from None


def _read_labels(file: Path, opened: pq.ParquetFile, column: str) -> pa.ChunkedArray:
    """int64 or text."""
    try:
        values = opened.read(columns=[column]).column(column)
        kind = values.type.value_type if pa.types.is_dictionary(values.type) else values.type
        if pa.types.is_integer(kind):
            return values.cast(pa.int64())
        return values.cast(pa.binary()).cast(pa.string())  # by way of bytes: whether text is UTF-8 is checked then
    except Exception as error:  # damaged bytes fail in any way
        raise UserError(f"{file} has labels that cannot be read ({reason(error)}): fetch it again") from None


def _numbered(
    values: list[pa.ChunkedArray], names: list[str] | None, key: Callable[[int], str]
) -> tuple[np.ndarray, list[str] | None]:
    """[n] int64, and the class names if there are any. Text is its own name, in one spelling; classes are sorted."""
    column = pa.chunked_array([chunk for part in values for chunk in part.chunks])
    if column.null_count:
        index = int(column.is_null().to_numpy().argmax())
        raise UserError(f"{key(index)} has no label: choose a split or --label-column that has labels")
    if pa.types.is_integer(column.type):
        return column.to_numpy(), names
    spelled = {text: one_spelling(text) for text in column.unique().to_pylist()}
    texts = [spelled[text] for text in column.to_pylist()]
    classes = sorted(set(spelled.values()))
    number = {name: label for label, name in enumerate(classes)}
    return np.fromiter((number[text] for text in texts), np.int64, len(texts)), classes
