"""The journal remembers every line that reached the disk whole, and nothing else."""

import zlib

import pytest

from fastvarcon.data_prep.journal import FORM, Item, Journal
from fastvarcon.data_prep.record import Entry

HEADER = {**FORM, "mode": "jpg", "classes": ["ant", "bée"]}
CHUNKS = [
    [
        Item(Entry(0, 0, 375, 500, 17_213, 2**64 - 1), (20_000, 1_700_000_000_123_456_789)),
        Item("ant/b\udcff.png: broken image", (0, 0)),
    ],
    [Item("bee/ü.jpg: not an image", (-1, 0))],
    [Item(Entry(1, 1, 1, 65_535, 196_605, 0), (2**40, 1))],
]


def flat(chunks):
    return [item for chunk in chunks for item in chunk]


@pytest.fixture
def journal(tmp_path):
    journal = Journal(tmp_path / "a.beton")
    journal.start(HEADER, [])
    for chunk in CHUNKS:
        journal.append(chunk)
    journal.close()
    return journal


def test_reads_back_what_was_written(journal, tmp_path):
    assert journal.read() == (HEADER, flat(CHUNKS)) and isinstance(journal.read()[1][0].result, Entry)
    assert [path.name for path in tmp_path.iterdir()] == ["a.beton.journal"]


def test_no_journal(tmp_path):
    assert Journal(tmp_path / "a.beton").read() == (None, [])


def test_journal_of_an_earlier_form_has_no_items(tmp_path):
    """It did not say of which files its records were made."""
    old = Journal(tmp_path / "a.beton")
    lines = b'{"mode": "jpg"}', b"[[0, 0, 3, 5, 17, 8]]"
    old.path.write_bytes(b"".join(b"%08x %s\n" % (zlib.crc32(line), line) for line in lines))
    assert old.read() == ({"mode": "jpg"}, [])


def test_torn_anywhere(journal):
    """Cut after every byte: exactly the chunks whose lines are whole."""
    whole = journal.path.read_bytes()
    ends = [i + 1 for i, byte in enumerate(whole) if byte == ord("\n")]
    for cut in range(len(whole) + 1):
        journal.path.write_bytes(whole[:cut])
        lines = sum(end <= cut for end in ends)
        assert journal.read() == ((HEADER, flat(CHUNKS[: lines - 1])) if lines else (None, []))


def test_one_wrong_byte_ends_it(journal):
    whole = journal.path.read_bytes()
    starts = [0] + [i + 1 for i, byte in enumerate(whole) if byte == ord("\n")]
    for at in range(len(whole)):
        journal.path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        line = sum(start <= at for start in starts) - 1
        assert journal.read()[1] == (flat(CHUNKS[: line - 1]) if line else [])


def test_start_with_items_takes_the_place_of_the_old_one(journal):
    items = flat(CHUNKS) * 1000
    journal.start(HEADER, items)
    journal.append(CHUNKS[0])
    journal.close()
    assert journal.read() == (HEADER, items + CHUNKS[0])
    journal.remove()
    assert journal.read() == (None, [])
