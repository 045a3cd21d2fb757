"""CIFAR batches as their authors pickled them, against torchvision; and what a pickle must never get done."""

import io
import os
import pickle
import re
import struct

import numpy as np
import pytest
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st

from fastvarcon.data_prep.sources import open_source, plain_pickle
from fastvarcon.errors import UserError


class Python2Pickler(pickle._Pickler):
    """Protocol 2 as Python 2 wrote it: all text is a string of bytes."""

    def save_string(self, value: str | bytes) -> None:
        content = value.encode("latin1") if isinstance(value, str) else value
        self.write(pickle.BINSTRING + struct.pack("<i", len(content)) + content)
        self.memoize(value)

    dispatch = {**pickle._Pickler.dispatch, str: save_string, bytes: save_string}  # noqa: RUF012


def python2(value) -> bytes:
    stream = io.BytesIO()
    Python2Pickler(stream, protocol=2).dump(value)
    return stream.getvalue().replace(b"numpy._core.multiarray", b"numpy.core.multiarray")


def python3(value) -> bytes:
    return pickle.dumps({key.encode(): entry for key, entry in value.items()}, protocol=2)


def batch(rng, count: int, first: int = 0, **labels) -> dict:
    data = rng.integers(0, 256, (count, 3072), dtype=np.uint8)
    return {"batch_label": "a batch", **labels, "data": data, "filenames": [f"{first + i}.png" for i in range(count)]}


def write_cifar10(root, rng, dump=python2):
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    for name in [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]:
        count = int(rng.integers(3, 6))
        content = batch(rng, count, labels=rng.integers(0, 10, count).tolist())
        (folder / name).write_bytes(dump(content))
    meta = {"num_cases_per_batch": 10000, "label_names": [f"class {label}" for label in range(10)], "num_vis": 3072}
    (folder / "batches.meta").write_bytes(dump(meta))
    return folder


def write_cifar100(root, rng, dump=python2):
    folder = root / "cifar-100-python"
    folder.mkdir(parents=True)
    for name, count in (("train", 7), ("test", 4)):
        fine, coarse = rng.integers(0, 100, count).tolist(), rng.integers(0, 20, count).tolist()
        (folder / name).write_bytes(dump(batch(rng, count, fine_labels=fine, coarse_labels=coarse)))
    names = {
        "fine_label_names": [f"fine {i}" for i in range(100)],
        "coarse_label_names": [f"coarse {i}" for i in range(20)],
    }
    (folder / "meta").write_bytes(dump(names))
    return folder


class Cifar10(torchvision.datasets.CIFAR10):
    """Without the checksums of the one real data set."""

    train_list = [[f"data_batch_{number}", None] for number in range(1, 6)]  # noqa: RUF012
    test_list = [["test_batch", None]]  # noqa: RUF012
    meta = {"filename": "batches.meta", "key": "label_names", "md5": None}  # noqa: RUF012


class Cifar100(torchvision.datasets.CIFAR100):
    train_list = [["train", None]]  # noqa: RUF012
    test_list = [["test", None]]  # noqa: RUF012
    meta = {"filename": "meta", "key": "fine_label_names", "md5": None}  # noqa: RUF012


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize(("write", "reference"), [(write_cifar10, Cifar10), (write_cifar100, Cifar100)])
@pytest.mark.filterwarnings("ignore:numpy.core:DeprecationWarning")
def test_pixels_labels_and_classes_are_those_of_torchvision(tmp_path, rng, write, reference, split):
    folder = write(tmp_path, rng)
    source, expected = open_source(folder, split=split), reference(tmp_path, train=split == "train")
    assert source.labels.tolist() == expected.targets and source.classes == expected.classes
    assert np.array_equal([source.read(index) for index in range(len(source))], expected.data)


def test_python_3_spells_bytes_in_another_way(tmp_path):
    write_cifar100(tmp_path / "2", np.random.default_rng(0), python2)
    write_cifar100(tmp_path / "3", np.random.default_rng(0), python3)
    two, three = (open_source(tmp_path / version / "cifar-100-python", split="train") for version in "23")
    assert two.classes == three.classes and two.labels.tolist() == three.labels.tolist()
    assert all(np.array_equal(two.read(index), three.read(index)) for index in range(len(two)))


def test_arrays_that_were_stored_by_column(tmp_path, rng):
    folder = write_cifar100(tmp_path, rng)
    content = pickle.loads((folder / "train").read_bytes(), encoding="latin1")
    expected = content["data"].copy()
    (folder / "train").write_bytes(python2({**content, "data": np.asfortranarray(expected)}))
    source = open_source(folder, split="train")
    assert np.array_equal(source.read(5), expected[5].reshape(3, 32, 32).transpose(1, 2, 0))


def test_keys_name_the_batch_and_the_row(tmp_path, rng):
    folder = write_cifar10(tmp_path, rng)
    source = open_source(folder, split="train")
    first = len(pickle.loads((folder / "data_batch_1").read_bytes(), encoding="latin1")["labels"])
    assert source.key(first - 1) == f"data_batch_1 row {first - 1}" and source.key(first) == "data_batch_2 row 0"


def test_superclasses_of_cifar100(tmp_path, rng):
    folder = write_cifar100(tmp_path, rng)
    coarse = open_source(folder, split="test", label_column="coarse_labels")
    stored = pickle.loads((folder / "test").read_bytes(), encoding="latin1")
    assert coarse.labels.tolist() == stored["coarse_labels"] and coarse.classes[19] == "coarse 19"


def make_pipe(path):
    path.unlink()
    os.mkfifo(path)


def change(folder, name, **entries):
    content = pickle.loads((folder / name).read_bytes(), encoding="latin1")
    (folder / name).write_bytes(python2({**content, **entries}))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "data_batch_4").unlink(), "data_batch_4 cannot be read .No such file"),
        (lambda folder: (folder / "batches.meta").unlink(), "not an unpacked CIFAR folder"),
        (
            lambda folder: change(folder, "batches.meta", label_names=["a"]),
            r"data_batch_1 row \d has label \d, outside",
        ),
        (lambda folder: change(folder, "batches.meta", label_names=5), "batches.meta does not list the classes"),
        (lambda folder: change(folder, "data_batch_2", labels=[1]), "data_batch_2 .* labels per image"),
        (lambda folder: change(folder, "data_batch_2", data=np.zeros((3, 3072))), "not of uint8"),
        (lambda folder: change(folder, "data_batch_2", data=np.zeros((3, 9), np.uint8)), "no rows of 3072 bytes"),
        (lambda folder: change(folder, "data_batch_2", data="x"), "no rows of 3072 bytes"),
        (lambda folder: (folder / "data_batch_5").write_bytes(b""), "data_batch_5 is empty"),
        (lambda folder: make_pipe(folder / "data_batch_5"), "data_batch_5 cannot be read .not a regular file"),
        (lambda folder: os.truncate(folder / "data_batch_5", 2 << 30), "more than 1 GB, which no CIFAR batch has"),
        (lambda folder: (folder / "data_batch_5").write_bytes(b"hello"), "data_batch_5 is damaged"),
    ],
)
def test_what_is_no_cifar(tmp_path, rng, damage, message):
    folder = write_cifar10(tmp_path, rng)
    damage(folder)
    with pytest.raises(UserError, match=message):
        open_source(folder, "cifar", "train")


@pytest.mark.parametrize("split", [None, "val"])
def test_the_split_must_be_chosen(tmp_path, rng, split):
    with pytest.raises(UserError, match="--split train or test"):
        open_source(write_cifar10(tmp_path, rng), split=split)


def test_an_unknown_label_column_lists_the_known(tmp_path, rng):
    with pytest.raises(UserError, match="fine_labels, coarse_labels"):
        open_source(write_cifar100(tmp_path, rng), split="train", label_column="labels")


class Run:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("function", [os.system, eval, np.load, getattr])
def test_a_pickle_that_would_run_code_does_not(tmp_path, rng, monkeypatch, function, protocol):
    folder = write_cifar100(tmp_path, rng)
    monkeypatch.chdir(tmp_path)
    argument = "__import__('os').mkdir('ran')" if function is eval else "mkdir ran"
    content = {b"data": Run(function, argument), b"fine_labels": [1]}
    (folder / "train").write_bytes(pickle.dumps(content, protocol=protocol))
    name = function.__name__ if function is not os.system else "system"
    with pytest.raises(UserError, match=rf"it would run code \(\w+\.{name}\)"):
        open_source(folder, split="train")
    assert not (tmp_path / "ran").exists()


def test_the_classic_attack_is_named(tmp_path, rng):
    folder = write_cifar100(tmp_path, rng)
    (folder / "train").write_bytes(b"cos\nsystem\n(S'touch ran'\ntR.")
    with pytest.raises(UserError, match=r"not a CIFAR batch: it would run code \(os\.system\)"):
        open_source(folder, split="train")


def test_the_stand_ins_call_no_codec_and_no_numpy(tmp_path, rng):
    """The names that are allowed lead to this project's functions, which do one thing."""
    folder = write_cifar100(tmp_path, rng)
    for call in (b"c_codecs\nencode\n(Vx\nVzlib\ntR.", b"cnumpy\ndtype\n(VO\ntR.", b"cnumpy\nndarray\n((I9\nttR."):
        (folder / "train").write_bytes(call)
        with pytest.raises(UserError, match="damaged"):
            open_source(folder, split="train")


def test_a_damaged_byte_cannot_ask_for_all_memory(tmp_path, rng):
    """Remember the list as number 2**31 - 1: the reader in C would make a table of that many entries."""
    folder = write_cifar100(tmp_path, rng)
    (folder / "train").write_bytes(b"]r\xff\xff\xff\x7f.")
    with pytest.raises(UserError, match="no rows of 3072 bytes"):
        open_source(folder, split="train")


def test_more_instructions_than_data_needs(tmp_path, rng, monkeypatch):
    """Every real batch stays far below the limit, which is lowered here."""
    monkeypatch.setattr(plain_pickle, "MAX_INSTRUCTIONS", 500)
    folder = write_cifar100(tmp_path, rng)
    assert len(open_source(folder, split="train")) == 7
    change(folder, "train", filenames=["x.png"] * 600)
    with pytest.raises(UserError, match=r"train is damaged \(more than 500 instructions\): unpack"):
        open_source(folder, split="train")


def test_the_largest_real_batch_is_below_the_limit(tmp_path):
    """The train file of CIFAR-100 with an image of zero bytes, which is one instruction whatever its size."""
    content = batch(np.random.default_rng(0), 1, fine_labels=[7] * 50_000, coarse_labels=[3] * 50_000)
    content["filenames"] = [f"{index}.png" for index in range(50_000)]
    (tmp_path / "train").write_bytes(python2(content))
    assert len(plain_pickle.load_plain_pickle(tmp_path / "train")[b"fine_labels"]) == 50_000


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({(1, 2): "x"}, "a key that is not a short text"),
        ({7: "x"}, "a key that is not a short text"),
        ({"x" * 257: "x"}, "a key that is not a short text"),
        ({"a": {("b",): 1}}, "a key that is not a short text"),
        ({"a": {1, 2}}, "instruction 0x.., which plain data does not need|would run code"),
        ({"a": frozenset([1])}, "instruction 0x.., which plain data does not need|would run code"),
        ({"a": bytearray(b"x")}, "instruction 0x.., which plain data does not need|would run code"),
        ({"a": 1 << 5000}, None),
    ],
)
@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_values_that_plain_data_does_not_need(tmp_path, content, message, protocol):
    (tmp_path / "x").write_bytes(pickle.dumps(content, protocol=protocol))
    if message is None:
        assert plain_pickle.load_plain_pickle(tmp_path / "x") == content
        return
    with pytest.raises(UserError, match=message):
        plain_pickle.load_plain_pickle(tmp_path / "x")


def test_text_is_spelled_as_bytes_once(tmp_path):
    """Python 3 writes bytes as text for protocol 2. What a file holds once cannot be made many times."""
    once = pickle.dumps([b"ab\xff" * 10], protocol=2)
    (tmp_path / "x").write_bytes(once)
    assert plain_pickle.load_plain_pickle(tmp_path / "x") == [b"ab\xff" * 10]
    reader = plain_pickle._Reader(once)
    with pytest.raises(ValueError, match="more bytes than the file has"):
        [reader._latin1("x" * 20, "latin1") for _ in range(10)]


@pytest.mark.parametrize("content", [b"\x80", b"(", b".", b"}.", b"\x80\x02", b"p" + b"9" * 50 + b"\n."])
def test_a_reason_is_always_given(tmp_path, content):
    (tmp_path / "x").write_bytes(content)
    try:
        plain_pickle.load_plain_pickle(tmp_path / "x")
    except UserError as error:
        assert re.search(r"is damaged \(.+\): unpack", str(error)) and "()" not in str(error)


@pytest.fixture(scope="module")
def cifar100(tmp_path_factory):
    folder = write_cifar100(tmp_path_factory.mktemp("cifar"), np.random.default_rng(1))
    return folder, (folder / "train").read_bytes()


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_damaged_batches_are_refused_or_read_whole(cifar100, data):
    """Header bytes are drawn more often than pixels, whose values say nothing wrong."""
    folder, whole = cifar100
    structure = st.one_of(
        st.integers(0, 300), st.integers(len(whole) - 400, len(whole) - 1), st.integers(0, len(whole) - 1)
    )
    content = bytearray(whole[: data.draw(st.one_of(st.just(len(whole)), structure))])
    for position in data.draw(st.lists(structure, max_size=3)):
        if position < len(content):
            content[position] = data.draw(st.integers(0, 255))
    (folder / "train").write_bytes(content)
    try:
        source = open_source(folder, "cifar", "train")
    except UserError:
        return
    assert len(source) > 0 and ((source.labels >= 0) & (source.labels < 100)).all()
    assert all(source.read(index).shape == (32, 32, 3) for index in range(len(source)))
