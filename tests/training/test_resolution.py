import pytest

from fastvarcon.errors import UserError
from fastvarcon.training.resolution import epoch_sizes


def test_sizes_follow_the_shares():
    assert epoch_sizes("", 3, 224) == [224] * 3
    assert epoch_sizes("160:0.7,192:0.2,224:0.1", 10, 224) == [160] * 7 + [192] * 2 + [224]
    assert epoch_sizes("8:0.333333,16:0.333333,24:0.333334", 4, 24) == [8, 16, 16, 24]


@pytest.mark.parametrize(
    ("schedule", "message"),
    [
        ("160:0.7,224:0.2", "sum to 0.9: make them sum to 1"),
        ("160", "write it like"),
        ("160:x", "write it like"),
        ("0:1", "write it like"),
        ("160:1.5,224:-0.5", "write it like"),
        ("160:0.99,224:0.01", "224 px is less than one of 10 epochs"),
    ],
)
def test_schedules_that_are_none(schedule, message):
    with pytest.raises(UserError, match=message):
        epoch_sizes(schedule, 10, 224)
