"""One tar per class: what they hold, how they are told from shards, and what is no such folder."""

import io
import tarfile

import pytest
from PIL import Image

from fastvarcon.data.decode import decode_rgb
from fastvarcon.data.image_kinds import TEXT
from fastvarcon.data_prep.sources import open_source
from fastvarcon.errors import UserError


def png(shade: int) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (4, 3), (shade, shade, shade)).save(stream, "PNG")
    return stream.getvalue()


def write(path, members: dict[str, bytes], mode: str = "w"):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as tar:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


@pytest.fixture
def root(tmp_path):
    """As of `tar cf n01440764.tar -C n01440764 .`, with a folder and Finder's shadow file in it."""
    root = tmp_path / "train"
    write(root / "n02.tar", {"./0.PNG": png(20), "./1.png": png(21), "./._1.png": b"x", "./notes.txt": b"x"})
    write(root / "n01.tar", {"n01_7.png": png(10), "deep/n01_8.png": png(11), "deep/n01_9.png": png(12)})
    with tarfile.open(root / "n01.tar", "a") as tar:
        folder = tarfile.TarInfo("deep")
        folder.type = tarfile.DIRTYPE
        tar.addfile(folder)
    return root


def shades(source) -> list[int]:
    return [int(decode_rgb(source.read(index), source.key(index))[0, 0, 0]) for index in range(len(source))]


@pytest.mark.parametrize("path", ["", "*.tar", "n{01..02}.tar"])
def test_files_are_classes(root, path):
    source = open_source(root / path)
    assert (
        source.classes == ["n01", "n02"] and source.labels.tolist() == [0, 0, 0, 1, 1] and source.left_out == {TEXT: 1}
    )
    assert shades(source) == [10, 11, 12, 20, 21] and source.key(3) == "n02.tar member ./0.PNG"


def test_splits_are_folders(root, tmp_path):
    write(tmp_path / "val" / "n01.tar", {"v.png": png(30)})
    write(tmp_path / "val" / "n02.tar", {"v.png": png(31)})
    with pytest.raises(UserError, match="several splits, train, val: choose one with --split"):
        open_source(tmp_path)
    assert shades(open_source(tmp_path, split="val")) == [30, 31]


def test_one_file_is_a_class_if_that_is_said(root):
    (root / "n02.tar").unlink()
    with pytest.raises(UserError, match=r"n01\.tar sample n01_7 has no label: .* give the folder of them all"):
        open_source(root)
    assert open_source(root, "class-tars").classes == ["n01"]


@pytest.mark.parametrize(
    ("name", "members", "message"),
    [
        ("n03.tar", {"notes.txt": b"x"}, r"n03\.tar has no images"),
        ("n03.tar", {"a.png": b"x", "b/a.png": b"x", "./c.png": b"x", "a.jpg": b"x"}, None),
        ("cafe\u0301.tar", {"a.png": b"x"}, None),
        ("a\nb.tar", {"a.png": b"x"}, r"has a class named 'a\\nb', which holds a control character"),
    ],
)
def test_another_file(root, name, members, message):
    write(root / name, members)
    if message is None:
        assert len(open_source(root).classes) == 3
        return
    with pytest.raises(UserError, match=message):
        open_source(root)


def test_splits_are_no_classes(tmp_path):
    for split in ("train", "val"):
        write(tmp_path / f"{split}.tar", {"a.png": b"x"})
    with pytest.raises(UserError, match="classes named train, val, which are splits"):
        open_source(tmp_path)


def test_a_name_twice(root):
    with tarfile.open(root / "n01.tar", "a") as tar:
        tar.addfile(tarfile.TarInfo("n01_7.png"))
    with pytest.raises(UserError, match=r"n01\.tar holds n01_7\.png twice"):
        open_source(root)


def test_damaged_and_compressed_files(root):
    (root / "n02.tar").write_bytes((root / "n02.tar").read_bytes()[:1000])
    with pytest.raises(UserError, match=r"n02\.tar is not a whole tar file"):
        open_source(root)
    (root / "n02.tar").unlink()
    write(root / "n02.tar.gz", {"a.png": b"x"}, "w:gz")
    with pytest.raises(UserError, match=r"n02\.tar\.gz is compressed: unpack it first"):
        open_source(root)


def test_a_tar_of_tars_says_what_to_do(root, tmp_path):
    """ILSVRC2012_img_train.tar as it is downloaded."""
    write(tmp_path / "all.tar", {file.name: file.read_bytes() for file in root.iterdir()})
    with pytest.raises(UserError, match=r"all\.tar holds tar files: unpack it once and give the folder of them"):
        open_source(tmp_path / "all.tar")
