"""Parquet files written by pyarrow as the Hugging Face hub lays them out."""

import json

import pytest

from fastvarcon.data.decode import ImageError
from fastvarcon.data_prep.sources import open_source
from fastvarcon.errors import UserError

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def images(count: int, first: int = 0) -> "pa.Array":
    return pa.array([{"bytes": b"image %d" % i, "path": f"{i}.jpg"} for i in range(first, first + count)], IMAGE)


def class_label(*names: str) -> dict:
    return {"names": list(names), "_type": "ClassLabel"}


def write(path, columns: dict, features: dict | None = None, row_group_size: int = 100):
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.table(columns)
    if features is not None:
        features = {"image": {"_type": "Image"}, **features}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pq.write_table(table, path, row_group_size=row_group_size)
    return path


def contents(source) -> list[bytes]:
    return [source.read(index) for index in range(len(source))]


def test_the_layout_of_the_hub(tmp_path):
    """Several files of a split in data/, several row groups in each, class names in the schema."""
    features = {"label": class_label("ant", "bee", "cat")}
    for number, labels in enumerate(([0, 1, 2, 0, 1], [2, 2], [1, 0, 1])):
        columns = {"image": images(len(labels), 10 * number), "label": labels, "width": labels}
        write(tmp_path / "data" / f"train-{number:05}-of-00003.parquet", columns, features, row_group_size=2)
    write(
        tmp_path / "data" / "test-00000-of-00001-0123456789abcdef.parquet", {"image": images(2, 90), "label": [-1, -1]}
    )
    (tmp_path / ".cache").mkdir()
    (tmp_path / ".cache" / "val-00000-of-00001.parquet").write_bytes(b"hidden")

    source = open_source(tmp_path, split="train")
    assert source.classes == ["ant", "bee", "cat"] and source.labels.tolist() == [0, 1, 2, 0, 1, 2, 2, 1, 0, 1]
    assert contents(source) == [b"image %d" % i for i in (0, 1, 2, 3, 4, 10, 11, 20, 21, 22)]
    assert [source.read(index) for index in (9, 0, 4)] == [b"image 22", b"image 0", b"image 4"]
    assert source.key(8) == "data/train-00002-of-00003.parquet row 1"
    with pytest.raises(UserError, match="several splits, data/test, data/train: choose one with --split"):
        open_source(tmp_path)
    with pytest.raises(UserError, match=r"test-.* row 0 has label -1, which means unlabelled: choose a split"):
        open_source(tmp_path, split="test")


@pytest.mark.parametrize("split", ["train", "default/train"])
def test_splits_in_folders(tmp_path, split):
    for name, label in (("train", 0), ("test", 1)):
        write(tmp_path / "default" / name / "0000.parquet", {"image": images(1), "label": [label]})
    source = open_source(tmp_path, split=split)
    assert source.labels.tolist() == [0] and source.key(0) == "default/train/0000.parquet row 0"


def test_one_file_or_a_pattern_needs_no_split(tmp_path):
    for number in range(2):
        write(
            tmp_path / f"part_{number}.parquet", {"img": [b"%d" % number], "fine_label": [number], "coarse_label": [0]}
        )
    write(tmp_path / "other.parquet", {"img": [b"x"], "fine_label": [0]})
    assert contents(open_source(tmp_path / "part_1.parquet")) == [b"1"]
    assert contents(open_source(tmp_path / "part_*.parquet")) == contents(open_source(tmp_path / "part_{0..1}.parquet"))


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.dictionary(pa.int8(), pa.string())])
def test_text_labels_are_their_own_names_in_order(tmp_path, kind):
    for number, labels in enumerate((["cat", "ant"], ["bee", "ant"])):
        write(tmp_path / f"train-{number}.parquet", {"image": images(2), "label": pa.array(labels).cast(kind)})
    source = open_source(tmp_path)
    assert source.classes == ["ant", "bee", "cat"] and source.labels.tolist() == [2, 0, 1, 0]


@pytest.mark.parametrize("kind", [pa.int8(), pa.int32(), pa.uint64()])
def test_numbers_without_names(tmp_path, kind):
    path = write(tmp_path / "a.parquet", {"image": images(2), "label": pa.array([3, 0], kind)})
    source = open_source(path)
    assert (
        source.classes == ["0", "1", "2", "3"] and source.labels.tolist() == [3, 0] and source.labels.dtype == "int64"
    )


def test_columns_are_found_or_asked_for(tmp_path):
    columns = {
        "id": [5, 6],
        "image": images(2, 0),
        "thumbnail": images(2, 10),
        "kind": ["x", "y"],
        "species": [1, 0],
    }
    path = write(tmp_path / "a.parquet", columns)
    with pytest.raises(
        UserError, match="does not say which column holds the labels: choose --label-column from id, kind"
    ):
        open_source(path)
    source = open_source(path, image_column="thumbnail", label_column="kind")
    assert source.read(0) == b"image 10" and source.classes == ["x", "y"]
    with pytest.raises(
        UserError, match="no column width that holds the images: choose --image-column from image, thumb"
    ):
        open_source(path, image_column="width", label_column="kind")
    with pytest.raises(UserError, match="no column image that holds the labels"):
        open_source(path, label_column="image")
    named = open_source(write(path, columns, {"species": class_label("ant", "bee")}))
    assert named.read(0) == b"image 0" and named.classes == ["ant", "bee"] and named.labels.tolist() == [1, 0]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"label": [1]}, "no column of images .* among label"),
        ({"image": images(1), "score": [0.5]}, "no column of labels .* among image, score"),
        ({"image": images(1), "label": pa.array([None], pa.int64())}, "row 0 has no label"),
        ({"image": images(1), "label": pa.array([2**63], pa.uint64())}, "labels that cannot be read"),
        ({"image": images(1), "label": [1_000_000]}, "row 0 has label 1000000, outside 0 to 999999"),
        ({"image": images(0), "label": pa.array([], pa.int64())}, "holds no rows"),
    ],
)
def test_tables_that_are_no_labelled_images(tmp_path, columns, message):
    with pytest.raises(UserError, match=message):
        open_source(write(tmp_path / "a.parquet", columns))


def test_a_label_beyond_the_listed_classes(tmp_path):
    features = {"label": class_label("ant", "bee")}
    path = write(tmp_path / "a.parquet", {"image": images(3), "label": [0, 2, 1]}, features)
    with pytest.raises(UserError, match=r"a\.parquet row 1 has label 2, outside 0 to 1"):
        open_source(path)


@pytest.mark.parametrize("written", ["{", '{"info": []}', '{"info": {"features": {"label": {"_type": "ClassLabel"}}}}'])
def test_damaged_class_names(tmp_path, written):
    table = pa.table({"image": images(1), "label": [0]}).replace_schema_metadata({"huggingface": written})
    pq.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(UserError, match='damaged entry "huggingface"'):
        open_source(tmp_path)


def test_files_of_different_tables(tmp_path):
    write(tmp_path / "train-0.parquet", {"image": images(1), "label": [0]})
    for columns in ({"image": images(1), "label": ["ant"]}, {"image": images(1), "width": [0]}):
        write(tmp_path / "train-1.parquet", columns)
        with pytest.raises(UserError, match=r"train-1\.parquet has other columns than .*train-0\.parquet"):
            open_source(tmp_path)


@pytest.mark.parametrize("size", [0, 3, 200, -1])
def test_truncated_files(tmp_path, size):
    path = write(tmp_path / "a.parquet", {"image": images(50), "label": [0] * 50})
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(UserError, match=r"a\.parquet is (not a whole parquet file|empty)"):
        open_source(path)


@pytest.mark.parametrize("name", ["s3:x", "a\udcff", "hdfs:", "a%20b"])
def test_a_name_that_is_no_address(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    path = write(tmp_path / "x.parquet", {"image": images(2), "label": [0, 1]}).rename(f"{name}.parquet")
    assert contents(open_source(path)) == [b"image 0", b"image 1"]


def test_labels_by_number_in_a_dictionary(tmp_path):
    labels = pa.array([3, 0, 3]).dictionary_encode()
    assert open_source(write(tmp_path / "a.parquet", {"image": images(3), "label": labels})).labels.tolist() == [
        3,
        0,
        3,
    ]


def test_one_image_that_is_not_there(tmp_path):
    rows = pa.array([None, {"bytes": None, "path": "x.jpg"}, {"bytes": b"here", "path": None}], IMAGE)
    source = open_source(write(tmp_path / "a.parquet", {"image": rows, "label": [0, 0, 0]}))
    for index in (0, 1):
        with pytest.raises(ImageError, match=rf"a\.parquet row {index}: no image, or only the path of one"):
            source.read(index)
    assert source.read(2) == b"here"


@pytest.mark.parametrize("text", ["string", "string_view", "binary", "binary_view", "large_binary", "large_string"])
@pytest.mark.parametrize("form", ["binary_view", "fixed", "large_binary", "struct"])
def test_every_form_of_bytes_and_text(tmp_path, form, text):
    kinds = {"fixed": pa.binary(7), "struct": pa.struct([("bytes", pa.binary_view()), ("path", pa.string_view())])}
    content = [b"image %d" % i for i in range(3)]
    rows = [{"bytes": row, "path": "x"} for row in content] if form == "struct" else content
    kind = kinds.get(form) or getattr(pa, form)()
    labels = pa.array(["dog", "ant", "dog"]).cast(getattr(pa, text)())
    try:
        path = write(tmp_path / "a.parquet", {"image": pa.array(rows, kind), "label": labels})
    except pa.ArrowNotImplementedError as error:
        pytest.skip(f"this pyarrow writes no such file: {error}")
    source = open_source(path)
    assert contents(source) == content and source.classes == ["ant", "dog"] and source.labels.tolist() == [1, 0, 1]


def test_a_checksum_beside_the_images_is_no_image(tmp_path):
    columns = {"jpeg": [b"image 0"], "md5": pa.array([b"x" * 16], pa.binary(16)), "label": [0]}
    assert contents(open_source(write(tmp_path / "a.parquet", columns))) == [b"image 0"]


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.binary()])
def test_labels_that_are_no_text(tmp_path, kind):
    labels = pa.array([b"\xff", b"a"], pa.large_binary() if kind == pa.large_string() else pa.binary()).view(kind)
    with pytest.raises(UserError, match=r"labels that cannot be read \(Invalid UTF8"):
        open_source(write(tmp_path / "a.parquet", {"image": images(2), "label": labels}))


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (["a\nb", "c"], r"column label has a class named 'a\\nb', which holds a control character"),
        (["", "c"], "which is empty"),
        (["train", "test"], "has classes named train, test, which are splits"),
    ],
)
def test_names_that_are_none(tmp_path, labels, message):
    with pytest.raises(UserError, match=message):
        open_source(write(tmp_path / "a.parquet", {"image": images(2), "label": labels}))


def test_two_spellings_of_a_label_are_one_class(tmp_path):
    source = open_source(write(tmp_path / "a.parquet", {"image": images(3), "label": ["caf\u00e9", "a", "cafe\u0301"]}))
    assert source.classes == ["a", "caf\u00e9"] and source.labels.tolist() == [1, 0, 1]


@pytest.mark.parametrize("names", [["a", "a"], ["\ud800", "b"], ["a\tb", "b"]])
def test_listed_names_that_are_none(tmp_path, names):
    with pytest.raises(UserError, match="rename"):
        open_source(write(tmp_path / "a.parquet", {"image": images(1), "label": [0]}, {"label": class_label(*names)}))


def test_only_two_columns_are_read_and_each_row_group_once(tmp_path, monkeypatch):
    columns = {"image": images(6), "label": [0] * 6, "notes": ["x"] * 6}
    source = open_source(write(tmp_path / "a.parquet", columns, row_group_size=3))
    seen = []
    real = pq.ParquetFile.read_row_group

    def spy(self, group, columns, **settings):
        seen.append((group, columns))
        return real(self, group, columns, **settings)

    monkeypatch.setattr(pq.ParquetFile, "read_row_group", spy)
    contents(source)
    assert seen == [(0, ["image"]), (1, ["image"])]
