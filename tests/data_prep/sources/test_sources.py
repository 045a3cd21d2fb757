"""What holds for every kind of source, and how a path tells its kind."""

import io
import itertools
import multiprocessing
import pickle
import re
import shutil
import sys
import tarfile

import numpy as np
import pytest
from PIL import Image

from fastvarcon.data.decode import ImageError, decode_rgb
from fastvarcon.data.image_folder import scan_image_folder
from fastvarcon.data.image_kinds import TEXT
from fastvarcon.data_prep.convert import Silence, convert
from fastvarcon.data_prep.encode import EncodeSettings
from fastvarcon.data_prep.sources import open_source
from fastvarcon.errors import UserError

COUNT = 40
LABELS = [(7 * index) % 3 for index in range(COUNT)]
KINDS = ["folder", "cifar", "idx", "parquet", "webdataset", "class-tars"]
BY_CLASS = ("folder", "class-tars")


def png(index: int) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.full((32, 32, 3), index, np.uint8)).save(stream, "PNG")
    return stream.getvalue()


def write_folder(root):
    for index, label in enumerate(LABELS):
        (root / str(label)).mkdir(parents=True, exist_ok=True)
        (root / str(label) / f"{index:02}.png").write_bytes(png(index))


def write_cifar(root):
    root.mkdir()
    data = np.repeat(np.arange(COUNT, dtype=np.uint8)[:, None], 3072, axis=1)
    for name in ("train", "test"):
        (root / name).write_bytes(pickle.dumps({b"data": data, b"fine_labels": LABELS}, protocol=2))
    (root / "meta").write_bytes(pickle.dumps({b"fine_label_names": [b"0", b"1", b"2"]}, protocol=2))


def write_idx(root):
    root.mkdir()
    data = np.repeat(np.arange(COUNT, dtype=np.uint8), 32 * 32)
    header = b"\0\0\x08\x03" + np.array([COUNT, 32, 32], ">u4").tobytes()
    (root / "train-images-idx3-ubyte").write_bytes(header + data.tobytes())
    labels = b"\0\0\x08\x01" + np.array([COUNT], ">u4").tobytes() + bytes(LABELS)
    (root / "train-labels-idx1-ubyte").write_bytes(labels)


def write_parquet(root):
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    root.mkdir()
    table = pa.table({"image": [png(index) for index in range(COUNT)], "label": LABELS})
    pq.write_table(table, root / "train-00000-of-00001.parquet", row_group_size=7)


def write_tar(path, members):
    with tarfile.open(path, "w") as tar:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))


def write_webdataset(root):
    root.mkdir()
    for shard in range(2):
        part = range(shard * COUNT // 2, (shard + 1) * COUNT // 2)
        pairs = ([(f"{i:04}.png", png(i)), (f"{i:04}.cls", b"%d" % LABELS[i])] for i in part)
        write_tar(root / f"train-{shard}.tar", itertools.chain(*pairs))


def write_class_tars(root):
    root.mkdir()
    for label in range(3):
        images = [(f"./{index:02}.png", png(index)) for index in range(COUNT) if LABELS[index] == label]
        write_tar(root / f"{label}.tar", images)


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


@pytest.fixture
def root(kind, tmp_path):
    path = tmp_path / "data"
    globals()[f"write_{kind.replace('-', '_')}"](path)
    return path


def open_train(root, kind="auto"):
    return open_source(root, kind, "train" if (root / "meta").exists() else None)


def value(content) -> int:
    """The one grey of an image."""
    if isinstance(content, np.ndarray):
        return int(content[0, 0].max())
    return np.asarray(Image.open(io.BytesIO(content) if isinstance(content, bytes) else content)).max()


def values(source) -> list[int]:
    return [value(source.read(index)) for index in range(len(source))]


def keys(source) -> list[str]:
    return [source.key(index) for index in range(len(source))]


def test_every_kind_holds_the_same_images(root, kind):
    source = open_train(root)
    assert source.name == "data" and source.classes == ["0", "1", "2"] and not source.left_out
    assert source.labels.dtype == np.int64 and len(source) == COUNT and len(set(keys(source))) == COUNT
    order = np.argsort(LABELS, kind="stable") if kind in BY_CLASS else np.arange(COUNT)
    assert values(source) == order.tolist() and source.labels.tolist() == [LABELS[i] for i in order]


def test_auto_is_the_kind_itself(root, kind):
    assert type(open_train(root)) is type(open_train(root, kind))


@pytest.mark.parametrize("count", [1, 5, COUNT])
def test_first_per_class(root, count):
    source = open_train(root)
    few = source.first_per_class(count)
    kept = [i for i in range(COUNT) if (source.labels[:i] == source.labels[i]).sum() < count]
    assert few.classes == source.classes and few.name == source.name
    assert few.labels.tolist() == source.labels[kept].tolist()
    assert keys(few) == [source.key(i) for i in kept] and values(few) == [value(source.read(i)) for i in kept]
    assert values(few.first_per_class(1)) == values(source.first_per_class(1))


def test_some_classes(root):
    source = open_train(root)
    some = source.of_classes(["2", "0"])
    kept = [i for i in range(COUNT) if source.labels[i] != 1]
    assert some.classes == ["0", "2"] and some.labels.tolist() == [source.labels[i] // 2 for i in kept]
    assert keys(some) == [source.key(i) for i in kept] and values(some) == [value(source.read(i)) for i in kept]
    assert len(some.first_per_class(2)) == 4 and some.labels.dtype == np.int64
    with pytest.raises(UserError, match="data lacks 1 of the 2 --classes, dog among them"):
        source.of_classes(["0", "dog"])


def test_pickles_without_pixels_and_reads_on_in_another_process(root):
    source = open_train(root).first_per_class(10)
    expected = values(source)
    assert len(pickle.dumps(source)) < 10_000
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(values, (source,)) == expected


def test_a_source_that_another_process_got_keeps_its_own(root):
    source = open_train(root)
    assert values(pickle.loads(pickle.dumps(source))) == values(source)


def test_a_file_that_is_gone_fails_image_by_image(root):
    source = pickle.loads(pickle.dumps(open_train(root)))
    shutil.rmtree(root)
    with pytest.raises(ImageError, match=f"^{re.escape(source.key(30))}: "):
        decode_rgb(source.read(30), source.key(30))


class Interrupted(Silence):
    """Ends a conversion once it has passed image 24."""

    done = 0

    def advance(self, images):
        self.done += images
        if self.done > 24:
            raise KeyboardInterrupt


class Resumed(Silence):
    def begin(self, done):
        self.done = done


def test_a_file_that_changed_is_read_again_by_a_resumed_conversion(root, kind, tmp_path, monkeypatch):
    monkeypatch.setattr("fastvarcon.data_prep.workers.CHUNK", 4)
    out, settings = tmp_path / "a.beton", {"settings": EncodeSettings("raw"), "workers": 1, "on_error": "stop"}
    with pytest.raises(KeyboardInterrupt):
        convert(open_train(root), out, progress=Interrupted(), **settings)
    names = {"cifar": "train", "idx": "train-images-idx3-ubyte", "webdataset": "train-1.tar", "folder": "1/01.png"}
    names["class-tars"] = "1.tar"
    shutil.copy(root / names.get(kind, "train-00000-of-00001.parquet"), tmp_path / "copy")
    shutil.move(tmp_path / "copy", root / names.get(kind, "train-00000-of-00001.parquet"))
    convert(open_train(root), out, progress=(resumed := Resumed()), **settings)
    first = {"webdataset": 20, "folder": LABELS.count(0), "class-tars": LABELS.count(0)}.get(kind, 0)
    assert resumed.done == first
    convert(open_train(root), tmp_path / "b.beton", **settings)
    assert out.read_bytes() == (tmp_path / "b.beton").read_bytes()


def test_folders_are_those_of_the_scanner(image_folder):
    (image_folder / "ant" / "notes.txt").write_text("x")
    source, scanned = open_source(image_folder), scan_image_folder(image_folder)
    assert [source.read(index) for index in range(len(source))] == scanned.paths and source.key(0) == str(
        scanned.paths[0]
    )
    assert (
        source.labels.tolist() == scanned.labels.tolist()
        and source.classes == scanned.classes
        and source.left_out == {TEXT: 1}
    )


def test_a_split_of_a_folder_is_a_sub_folder(image_folder, tmp_path):
    (tmp_path / "set").mkdir()
    image_folder.rename(tmp_path / "set" / "train")
    assert open_source(tmp_path / "set", split="train").classes == ["ant", "bee", "cat"]
    with pytest.raises(UserError, match="no sub-folder val"):
        open_source(tmp_path / "set", split="val")


@pytest.mark.parametrize("path", ["nowhere", "nowhere/at/all.tar"])
def test_nothing_there(tmp_path, path):
    with pytest.raises(UserError, match="does not exist"):
        open_source(tmp_path / path)


def test_nothing_that_is_known(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "notes.txt").write_text("x")
    (tmp_path / "loose.jpg").write_bytes(b"x")
    for path in (tmp_path, tmp_path / "a", tmp_path / "a" / "notes.txt", tmp_path / "loose.jpg"):
        with pytest.raises(UserError, match=r"holds nothing that is known .*--source"):
            open_source(path)


def test_several_kinds_must_be_chosen_from(image_folder):
    with tarfile.open(image_folder / "all.tar", "w"):
        pass
    with pytest.raises(UserError, match="can be read as folder or webdataset: say which with --source"):
        open_source(image_folder)
    assert len(open_source(image_folder, "folder")) == 15


def test_class_folders_may_be_links(image_folder, tmp_path):
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / "ant").symlink_to(image_folder / "ant")
    assert open_source(tmp_path / "linked").classes == ["ant"]


def test_unknown_kinds_are_refused(image_folder):
    with pytest.raises(UserError, match="--source tar is not known: choose from auto, folder"):
        open_source(image_folder, "tar")


def test_columns_belong_to_some_kinds(image_folder):
    with pytest.raises(UserError, match="--image-column is for parquet"):
        open_source(image_folder, image_column="image")
    with pytest.raises(UserError, match="--label-column is for parquet and cifar"):
        open_source(image_folder, label_column="label")


def test_parquet_without_pyarrow_says_what_to_install(tmp_path, monkeypatch):
    (tmp_path / "a.parquet").write_bytes(b"x")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    for name in ("parquet", "parquet_columns"):
        monkeypatch.delitem(sys.modules, f"fastvarcon.data_prep.sources.{name}", raising=False)
    with pytest.raises(UserError, match=r"pip install 'fastvarcon\[parquet\]'"):
        open_source(tmp_path / "a.parquet")
