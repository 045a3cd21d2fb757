"""What goes through the pipe between the converting process and its workers."""

import pytest

from fastvarcon.data.beton import JPG
from fastvarcon.data.records import content_hash
from fastvarcon.data_prep.record import Record
from fastvarcon.data_prep.workers import _with_payload, _without_payload
from fastvarcon.errors import UserError


@pytest.fixture
def kept(tmp_path):
    path = tmp_path / "a.jpg"
    path.write_bytes(b"the JPEG")
    return path, (Record(b"the JPEG", JPG, 3, 4), content_hash(b"the JPEG"))


def test_kept_file_stays_behind_and_comes_back(kept):
    path, result = kept
    small = _without_payload(result, str(path))
    assert not isinstance(small, tuple) and _with_payload(small) == result


def test_what_is_not_the_file_travels(kept):
    path, _ = kept
    for result in ((Record(b"other", JPG, 3, 4), content_hash(b"other")), "a.jpg: broken image"):
        assert _without_payload(result, str(path)) is result and _with_payload(result) is result


@pytest.mark.parametrize("change", [lambda path: path.write_bytes(b"another!"), lambda path: path.unlink()])
def test_file_that_changed_in_between(kept, change):
    path, result = kept
    small = _without_payload(result, str(path))
    change(path)
    with pytest.raises(UserError, match=r"a\.jpg (changed|could be read)"):
        _with_payload(small)
