"""Known answers of the Random123 distribution (kat_vectors, philox4x32 10 rounds)."""

import numpy as np
import pytest

from fastvarcon.data.philox import philox4x32, uniforms


@pytest.mark.parametrize(
    ("counter", "key", "words"),
    [
        ((0, 0, 0, 0), 0, (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((0xFFFFFFFF,) * 4, 0xFFFFFFFFFFFFFFFF, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            0x299F31D0A4093822,
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_known_answers(counter, key, words):
    assert tuple(philox4x32(*counter, key)) == words


def test_vector_of_counters_equals_single_calls():
    ids = np.arange(5)
    together = philox4x32(ids, 1, 2, 3, 7)
    assert all((together[i] == philox4x32(i, 1, 2, 3, 7)).all() for i in ids)


def test_uniforms_cover_the_unit_interval_and_stay_below_one():
    assert uniforms(np.array([0, 0xFFFFFFFF], dtype=np.uint32)).tolist() == [0.0, 1 - 2.0**-24]
