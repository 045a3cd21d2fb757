"""What a dataset holds, wherever it is stored: to know it again at another path, and another one under the same name.

The converter stores a hash of every record, so a million images are compared by 8 MB. Sources without hashes (image
folders, files that ffcv wrote) are compared by the sizes of all records and the bytes of SAMPLED of them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fastvarcon.data.class_names import listed, names_in_file
from fastvarcon.data.records import Records, content_hash

SAMPLED = 256
BY_HASH, BY_SIZE = "record hashes", f"record sizes and {SAMPLED} records"


@dataclass(frozen=True)
class Content:
    """Equal for datasets with the same images under the same labels in the same order."""

    images: int
    classes: list[str]
    labels: str
    """SHA-256 of the label of every image."""
    records: str
    """SHA-256 of what `basis` names."""
    basis: str = BY_HASH
    hashes: np.ndarray | None = field(default=None, compare=False, repr=False)
    """[n] uint64, `content_hash` of each record; None without stored hashes."""

    @property
    def identity(self) -> dict[str, Any]:
        """All of it but the hashes, as JSON values."""
        return {name: getattr(self, name) for name in ("images", "classes", "labels", "records", "basis")}

    @property
    def number(self) -> int:
        """A number below 2^60 that tells it from others."""
        return int(hashlib.sha256(repr(self.identity).encode(errors="surrogateescape")).hexdigest()[:15], 16)

    def differences(self, earlier: dict[str, Any]) -> list[str]:
        """What is not as in the `identity` of an earlier one, in words; what that one does not say counts as equal."""
        found = []
        if self.images != earlier.get("images", self.images):
            found.append(f"{self.images:,} images, not {earlier['images']:,}")
        before = names_in_file(earlier.get("classes")) or self.classes  # as a file's are read, also in old runs
        if self.classes != before:
            changed = [f"+{name}" for name in self.classes if name not in before]
            changed += [f"-{name}" for name in before if name not in self.classes]
            what = listed(changed) if changed else "in another order"
            found.append(f"{len(self.classes):,} classes, not {len(before):,}: {what}")
        if not found and self.labels != earlier.get("labels", self.labels):
            found.append("other labels")
        if not found and (self.records, self.basis) != (
            earlier.get("records", self.records),
            earlier.get("basis", self.basis),
        ):
            found.append(f"other images, by their {self.basis}")
        return found


def content_of(records: Records) -> Content:
    """That of stored records."""
    if records.hashes is not None:
        return _content(records.classes, records.labels, [records.hashes], BY_HASH, records.hashes)
    tables = [records.sizes, records.heights, records.widths, _sample(len(records), records.record)]
    return _content(records.classes, records.labels, tables, BY_SIZE)


def content_of_files(
    classes: list[str], labels: np.ndarray, sizes: np.ndarray, read: Callable[[int], bytes]
) -> Content:
    """That of separate files; `read` gives the bytes of one."""
    return _content(classes, labels, [sizes, _sample(len(labels), read)], BY_SIZE)


def _sample(count: int, read: Callable[[int], bytes | memoryview]) -> np.ndarray:
    """[SAMPLED] uint64 hashes of records spread over all."""
    chosen = np.unique(np.linspace(0, count - 1, min(count, SAMPLED)).astype(np.int64)).tolist()
    return np.array([content_hash(read(index)) for index in chosen], dtype=np.uint64)


def _content(
    classes: list[str], labels: np.ndarray, tables: list[np.ndarray], basis: str, hashes: np.ndarray | None = None
) -> Content:
    digest = hashlib.sha256()
    for table in tables:
        digest.update(np.ascontiguousarray(table, dtype=np.int64 if table.dtype.kind == "i" else np.uint64).data)
    by_label = hashlib.sha256(np.ascontiguousarray(labels, dtype=np.int64).data).hexdigest()
    return Content(len(labels), list(classes), by_label, digest.hexdigest(), basis, hashes)
