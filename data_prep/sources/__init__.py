"""Where labelled images come from. Every kind of data set opens as a `Source`, which conversion reads by index."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, get_args

from fastvarcon.data_prep.sources.base import Source
from fastvarcon.errors import UserError

__all__ = ["Kind", "Source", "open_source"]

Kind = Literal["auto", "folder", "cifar", "idx", "parquet", "webdataset", "class-tars"]


def open_source(
    path: Path,
    kind: Kind = "auto",
    split: str | None = None,
    *,
    image_column: str | None = None,
    label_column: str | None = None,
) -> Source:
    """Open a data set.

    Args:
        path: a folder, a file, or for parquet and tar files a pattern: `train-{0000..0012}.tar`, `train-*.tar`.
        kind: how to read it; "auto" looks at what is there.
        split: which part of a data set that holds several, `train` for instance.
        image_column: parquet: the column with the images, if there are several.
        label_column: parquet: the column with the labels; CIFAR-100: `coarse_labels` for its 20 superclasses.

    Raises:
        UserError: nothing there, not what `kind` says, damaged, or a split or column that must be chosen.
    """
    if kind not in get_args(Kind):
        raise UserError(f"--source {kind} is not known: choose from {', '.join(get_args(Kind))}")
    found: str = kind
    if found == "auto":
        from fastvarcon.data_prep.sources.detect import detect_kind

        found = detect_kind(path)
    if image_column is not None and found != "parquet":
        raise UserError(f"--image-column is for parquet, and {path} is read as {found}: leave it out")
    if label_column is not None and found not in ("parquet", "cifar"):
        raise UserError(f"--label-column is for parquet and cifar, and {path} is read as {found}: leave it out")
    if found == "folder":
        from fastvarcon.data_prep.sources.folder import FolderSource

        return FolderSource(path, split)
    if found == "cifar":
        from fastvarcon.data_prep.sources.cifar import CifarSource

        return CifarSource(path, split, label_column)
    if found == "idx":
        from fastvarcon.data_prep.sources.idx import IdxSource

        return IdxSource(path, split)
    if found == "parquet":
        try:
            from fastvarcon.data_prep.sources.parquet import ParquetSource
        except ImportError as error:
            raise UserError(f"parquet files need pyarrow ({error}): pip install 'fastvarcon[parquet]'") from None
        return ParquetSource(path, split, image_column, label_column)
    if found == "class-tars":
        from fastvarcon.data_prep.sources.class_tars import ClassTarsSource

        return ClassTarsSource(path, split)
    from fastvarcon.data_prep.sources.webdataset import WebdatasetSource

    return WebdatasetSource(path, split)
