"""WebDataset shards written by Python's tarfile, in the forms that other tools write; and damaged ones."""

import io
import json
import os
import tarfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from fastvarcon.data.decode import ImageError, decode_rgb
from fastvarcon.data.image_kinds import TEXT
from fastvarcon.data.records import open_records
from fastvarcon.data_prep.convert import convert
from fastvarcon.data_prep.encode import EncodeSettings
from fastvarcon.data_prep.sources import open_source
from fastvarcon.errors import UserError


def png(shade: int) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (4, 3), (shade, shade, shade)).save(stream, "PNG")
    return stream.getvalue()


def write_tar(path, members: dict[str, bytes], form=tarfile.USTAR_FORMAT):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:", format=form) as tar:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def samples(labels, first=0, label=lambda label: ("cls", str(label).encode())) -> dict[str, bytes]:
    """Image `first + i` is a grey of that shade."""
    members = {}
    for index, number in enumerate(labels, first):
        suffix, content = label(number)
        members |= {f"{index:04}.png": png(index), f"{index:04}.{suffix}": content}
    return members


def shades(source) -> list[int]:
    return [int(decode_rgb(source.read(index), source.key(index))[0, 0, 0]) for index in range(len(source))]


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_and_foreign_names_in_every_format(tmp_path, form):
    folder = "x" * 60 + "/" + ("y" * 120 if form != tarfile.USTAR_FORMAT else "y" * 60)
    names = [f"{folder}/a", f"{folder}/Größe 日", "./plain"]
    members = {}
    for label, name in enumerate(names):
        members |= {f"{name}.png": png(label), f"{name}.cls": b"%d\n" % label, f"{name}.txt": b"a caption"}
    source = open_source(write_tar(tmp_path / "a.tar", members, form))
    assert shades(source) == source.labels.tolist() == [0, 1, 2] and source.classes == ["0", "1", "2"]
    assert source.key(1) == f"a.tar member {folder}/Größe 日.png" and not source.left_out


@pytest.mark.parametrize(
    "label",
    [
        lambda label: ("cls", b" %d\n" % label),
        lambda label: ("CLS", b"%d" % label),
        lambda label: ("json", json.dumps({"label": label, "caption": "x"}).encode()),
    ],
)
def test_labels_from_cls_and_json(tmp_path, label):
    source = open_source(write_tar(tmp_path / "a.tar", samples([3, 0, 2], label=label)))
    assert source.labels.tolist() == [3, 0, 2] and shades(source) == [0, 1, 2]


def test_cls_goes_before_json(tmp_path):
    members = {"a.png": png(0), "a.json": b'{"label": 7}', "a.cls": b"1"}
    assert open_source(write_tar(tmp_path / "a.tar", members)).labels.tolist() == [1]


def test_other_members_are_left_alone(tmp_path):
    """A mask, a text, a folder, Finder's shadow files and a table of contents are in no sample's way."""
    path = write_tar(
        tmp_path / "a.tar",
        {
            **samples([0, 1]),
            "0000.mask.png": png(9),
            "0001.txt": b"x",
            "._0001.png": b"x",
            "README": b"x",
            "all.json": b"[]",
        },
    )
    with tarfile.open(path, "a:") as tar:
        folder = tarfile.TarInfo("folder.png")
        folder.type = tarfile.DIRTYPE
        tar.addfile(folder)
    source = open_source(path)
    assert shades(source) == [0, 1] and source.left_out == {TEXT: 3}


@pytest.mark.parametrize(
    ("path", "split"),
    [
        ("train-{0000..0002}.tar", None),
        ("train-*.tar", None),
        ("train-000[0-2].tar", None),
        ("*.tar", "train"),
        ("", "train"),
    ],
)
def test_shards_of_a_split(tmp_path, path, split):
    for number in range(3):
        write_tar(tmp_path / f"train-000{number}.tar", samples([number] * (number + 1), first=10 * number))
    write_tar(tmp_path / "val-0000.tar", samples([5]))
    source = open_source(tmp_path / path, split=split)
    assert shades(source) == [0, 10, 11, 20, 21, 22] and source.labels.tolist() == [0, 1, 1, 2, 2, 2]
    assert source.key(4) == "train-0002.tar member 0021.png"
    assert [source.read(index) for index in (5, 0, 3)] == [png(22), png(0), png(20)]


def test_a_pattern_of_train_and_test(tmp_path):
    for name in ("train-0.tar", "test-0.tar"):
        write_tar(tmp_path / name, samples([0, 1]))
    with pytest.raises(UserError, match="several splits, test, train: choose one with --split"):
        open_source(tmp_path / "*.tar")
    assert len(open_source(tmp_path / "*.tar", split="train")) == 2


def test_splits_in_folders(tmp_path):
    write_tar(tmp_path / "train" / "shard-0.tar", samples([0, 1]))
    write_tar(tmp_path / "val" / "shard-0.tar", samples([1]))
    with pytest.raises(UserError, match="several splits, train/shard, val/shard: choose one with --split"):
        open_source(tmp_path)
    assert open_source(tmp_path, split="val").key(0) == "val/shard-0.tar member 0000.png"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("classes.txt", "ant\r\nbee\n\n"),
        ("classes.json", '["ant", "bee"]'),
        ("classes.json", '{"classes": ["ant", "bee"]}'),
    ],
)
def test_class_names_beside_the_shards(tmp_path, name, content):
    write_tar(tmp_path / "a.tar", samples([1, 0]))
    (tmp_path / name).write_text(content)
    assert open_source(tmp_path).classes == ["ant", "bee"]
    write_tar(tmp_path / "a.tar", samples([1, 2]))
    with pytest.raises(UserError, match=r"a\.tar member 0001\.png has label 2, outside 0 to 1"):
        open_source(tmp_path)


def test_class_names_survive_tar_shards(image_folder, tmp_path):
    """convert --format tar and back: the names stand in a file that other readers pass over."""
    settings = {"settings": EncodeSettings(), "workers": 1, "on_error": "stop"}
    (image_folder / "cat").rename(image_folder / "caf\u00e9 \u3000 x")
    convert(open_source(image_folder), tmp_path / "tars", format="tar", **settings)
    for path in (tmp_path / "tars", tmp_path / "tars" / "shard-{000000..000000}.tar", tmp_path / "tars" / "*.tar"):
        source = open_source(path)
        assert source.classes == ["ant", "bee", "caf\u00e9 \u3000 x"] and len(source) == 15
    convert(source, tmp_path / "back.beton", **settings)
    there, back = open_records(tmp_path / "tars"), open_records(tmp_path / "back.beton")
    assert back.classes == there.classes and back.labels.tolist() == there.labels.tolist()
    (tmp_path / "tars" / "classes.txt").write_text("\n".join(there.classes))
    assert open_source(tmp_path / "tars").classes == there.classes
    (tmp_path / "tars" / "classes.txt").write_text("x\ny\nz")
    with pytest.raises(UserError, match=r"tars has other classes in classes\.txt than in dataset\.json: remove one"):
        open_source(tmp_path / "tars")


def test_a_dataset_json_of_another_program(tmp_path):
    write_tar(tmp_path / "a.tar", samples([0]))
    for content in ('{"classes": 5}', "[]", '{"name": "x"}'):
        (tmp_path / "dataset.json").write_text(content)
        assert open_source(tmp_path).classes == ["0"]


@pytest.mark.parametrize("name", ["classes.txt", "classes.json", "dataset.json", "a.tar"])
def test_a_pipe_in_the_place_of_a_file_is_no_hang(tmp_path, name):
    write_tar(tmp_path / "b.tar", samples([0]))
    os.mkfifo(tmp_path / name)
    with pytest.raises(UserError, match=rf"{name} cannot be read \(not a regular file\)"):
        open_source(tmp_path, "webdataset", "a" if name == "a.tar" else None)


def test_a_list_that_windows_wrote(tmp_path):
    write_tar(tmp_path / "a.tar", samples([1, 0]))
    (tmp_path / "classes.txt").write_bytes(b"\xef\xbb\xbfant\r\nbee\r\n")
    assert open_source(tmp_path).classes == ["ant", "bee"]


@pytest.mark.parametrize("content", ["{", '"ant"', "[1]", '{"names": []}'])
def test_a_class_list_that_is_none(tmp_path, content):
    write_tar(tmp_path / "a.tar", samples([0]))
    (tmp_path / "classes.json").write_text(content)
    with pytest.raises(UserError, match=r"classes\.json is no list of class names"):
        open_source(tmp_path)


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"a.png": b"x"}, "a.tar sample a has no label: add a.cls"),
        ({"a.cls": b"0"}, "a.tar sample a has 0 images"),
        ({"a.png": b"x", "a.jpg": b"x", "a.cls": b"0"}, "a.tar sample a has 2 images .png, jpg, cls."),
        ({"a.png": b"x", "a.cls": b"dog"}, "member a.cls is not an integer"),
        ({"a.png": b"x", "a.cls": b"1_0"}, "member a.cls is not an integer"),
        ({"a.png": b"x", "a.cls": b"9" * 5000}, "member a.cls is not an integer"),
        ({"a.png": b"x", "a.cls": b"-1"}, "a.tar member a.png has label -1, which means unlabelled"),
        ({"a.png": b"x", "a.cls": b"12345678"}, "label 12345678, outside 0 to 999999"),
        ({"a.png": b"x", "a.json": b"{}"}, 'member a.json has no integer "label"'),
        ({"a.png": b"x", "a.json": b'{"label": true}'}, 'member a.json has no integer "label"'),
        ({"a.png": b"x", "a.json": b'{"label": 1e3}'}, 'member a.json has no integer "label"'),
        ({"a.png": b"x", "a.json": b"[" * 100_000}, 'member a.json has no integer "label"'),
        ({"a.png": b"x", "a.json": b"\xff"}, 'member a.json has no integer "label"'),
        ({"a.png": b"x", "a.PNG": b"x"}, "holds a.PNG twice"),
        ({"ILSVRC/n01440764": b"x"}, "a.tar holds no samples"),
    ],
)
def test_samples_that_are_not_whole(tmp_path, members, message):
    with pytest.raises(UserError, match=message):
        open_source(write_tar(tmp_path / "a.tar", members))


@pytest.mark.parametrize("kind", ["w:gz", "w:bz2", "w:xz"])
def test_compressed_shards_say_what_to_do(tmp_path, kind):
    for path in (tmp_path / "a.tar", tmp_path / f"a.tar.{kind[2:]}"):
        with tarfile.open(path, kind) as tar:
            tar.addfile(tarfile.TarInfo("a.png"))
        with pytest.raises(UserError, match="is compressed: unpack it first"):
            open_source(path)


@pytest.mark.parametrize("kind", [tarfile.LNKTYPE, tarfile.SYMTYPE, tarfile.FIFOTYPE])
def test_links_are_refused(tmp_path, kind):
    path = write_tar(tmp_path / "a.tar", samples([0]))
    with tarfile.open(path, "a:") as tar:
        link = tarfile.TarInfo("0001.png")
        link.type, link.linkname = kind, "0000.png"
        tar.addfile(link)
    with pytest.raises(UserError, match=r"member 0001\.png is a link or no plain file"):
        open_source(path)


def test_every_truncation_is_noticed(tmp_path):
    """At every block and within: also where the cut leaves only whole members."""
    path = write_tar(tmp_path / "a.tar", samples([0, 1]))
    whole = path.read_bytes()
    end = 8 * 512  # two samples, each two headers and two blocks of content
    assert whole[end:].strip(b"\0") == b"" and whole[end - 512 : end].strip(b"\0")
    for cut in [*range(0, end + 512, 128), end - 1, end + 511]:
        path.write_bytes(whole[:cut])
        with pytest.raises(UserError, match=r"a\.tar (is not a whole tar file|is empty)"):
            open_source(path)


def test_joined_shards_are_not_half_read(tmp_path):
    one, two = (write_tar(tmp_path / name, samples([0])).read_bytes() for name in ("a.tar", "b.tar"))
    (tmp_path / "joined.tar").write_bytes(one + two)
    with pytest.raises(UserError, match="truncated or damaged at byte"):
        open_source(tmp_path / "joined.tar")


def test_a_shard_that_becomes_shorter_fails_for_its_images(tmp_path):
    source = open_source(write_tar(tmp_path / "a.tar", samples([0, 1])))
    os.truncate(tmp_path / "a.tar", 1024)
    with pytest.raises(ImageError, match=r"a\.tar member 0001\.png: the shard has become shorter"):
        source.read(1)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("b-{0..1}.tar", "b-1.tar does not exist, which .* asks for"),
        ("b-{1..0}.tar", "stands for no file"),
        ("c*.tar", "does not exist"),
        ("c.tar", "does not exist"),
    ],
)
def test_patterns_that_match_nothing(tmp_path, path, message):
    write_tar(tmp_path / "b-0.tar", samples([0]))
    with pytest.raises(UserError, match=message):
        open_source(tmp_path / path, "webdataset")


def test_dali_reads_the_same_samples(tmp_path):
    pipeline = pytest.importorskip("nvidia.dali.pipeline")
    from nvidia.dali import fn

    path = write_tar(tmp_path / "a.tar", samples([4, 2, 7]), tarfile.PAX_FORMAT)

    @pipeline.pipeline_def(batch_size=3, num_threads=1, device_id=None)
    def reader():
        return tuple(fn.readers.webdataset(paths=[str(path)], ext=["png", "cls"]))

    built = reader()
    built.build()
    images, labels = built.run()
    source = open_source(path)
    assert [source.read(index) for index in range(3)] == [images.at(index).tobytes() for index in range(3)]
    assert source.labels.tolist() == [int(labels.at(index).tobytes()) for index in range(3)]


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    """One of each format, with long names where they can be."""
    root = tmp_path_factory.mktemp("shards")
    whole = []
    for form in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        names = ["a" * (120 if form != tarfile.USTAR_FORMAT else 20), "ü"]
        members = {
            f"{name}.{suffix}": content for name in names for suffix, content in (("png", png(1)), ("cls", b"3"))
        }
        whole.append(write_tar(root / "a.tar", members, form).read_bytes()[: 16 * 512])
    return root / "a.tar", whole


@settings(max_examples=400, deadline=None)
@given(data=st.data())
def test_damaged_shards_are_refused_or_read_whole(shards, data):
    path, whole = shards
    content = bytearray(data.draw(st.sampled_from(whole)))
    size_field = st.builds(lambda block, place: 512 * block + 124 + place, st.integers(0, 15), st.integers(0, 35))
    place = st.one_of(size_field, st.integers(0, len(content) - 1))
    for position in data.draw(st.lists(place, max_size=4)):
        content[position] = data.draw(st.integers(0, 255))
    block = 512 * data.draw(st.integers(0, 15))
    if data.draw(st.booleans()):  # with a sum that fits, a header is believed
        total = sum(content[block : block + 512]) - sum(content[block + 148 : block + 156]) + 8 * 32
        content[block + 148 : block + 156] = b"%06o\0 " % total
    del content[data.draw(st.one_of(st.just(len(content)), place)) :]
    path.write_bytes(content)
    try:
        source = open_source(path, "webdataset")
    except UserError:
        return
    assert len(source) and ((source.labels >= 0) & (source.labels < len(source.classes))).all()
    assert all(len(source.read(index)) <= len(content) for index in range(len(source)))
