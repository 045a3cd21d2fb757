"""`fastvarcon doctor`: its verdicts on machines of every kind, and one examination from end to end."""

import dataclasses
import re

import pytest

from fastvarcon.bench.doctor import WARM_UP, Diagnosis, Place, Rates, one_of, verdict, warm_up
from fastvarcon.commands.doctor import doctor, duration
from fastvarcon.config import Config, DataConfig, TrainConfig
from fastvarcon.errors import UserError

GPU = Place(on_gpu=True, cores=2, backend="cpu", fits=False, jpeg=True, large=False)
CPU = dataclasses.replace(GPU, on_gpu=False)
STARVED = Rates(loader=2000, views=90_000, synthetic=6000, real=1950, waiting=0.6)


@pytest.mark.parametrize(
    ("rates", "place", "expected"),
    [
        (STARVED, GPU, "data-bound: needs 6 cores per GPU, has 2; try --data.backend nvjpeg"),
        (
            STARVED,
            dataclasses.replace(GPU, fits=True),
            "data-bound: needs 6 cores per GPU, has 2; try --data.backend resident",
        ),
        (
            STARVED,
            dataclasses.replace(GPU, backend="nvjpeg", large=True),
            "data-bound: needs 6 cores per GPU, has 2; convert with a smaller --max-resolution",
        ),
        (
            STARVED,
            dataclasses.replace(GPU, backend="nvjpeg"),
            "data-bound: needs 6 cores per GPU, has 2; give each process more cores",
        ),
        (
            Rates(loader=30_000, views=90_000, synthetic=6000, real=5900, waiting=0.0),
            GPU,
            "compute-bound: real data reach 98% of the rate on synthetic data, and the loader alone could feed 5.0 "
            "times as much",
        ),
        (
            Rates(loader=2000, views=2100, synthetic=500, real=400, waiting=0.0),
            dataclasses.replace(CPU, fits=True),
            "shared: real data reach 80% of the rate on synthetic data, as the loader and the network share 2 cores; "
            "give each process more cores",
        ),
        (
            Rates(loader=1000, views=2100, synthetic=500, real=300, waiting=0.1),
            dataclasses.replace(CPU, fits=True, cores=1),
            "shared: real data reach 60% of the rate on synthetic data, as the loader and the network share 1 core; "
            "try --data.backend resident",
        ),
    ],
)
def test_verdicts(rates, place, expected):
    assert verdict(rates, place) == Diagnosis(rates, place, 1.0).verdict == expected


def test_one_process_of_several_takes_its_share(monkeypatch):
    monkeypatch.setattr("fastvarcon.bench.doctor.available_cores", lambda: 16)
    share = one_of(Config(train=TrainConfig(global_batch=4096)), 8)
    assert (share.train.global_batch, share.train.threads, share.data.workers) == (512, 2, 2)
    assert one_of(Config(DataConfig(workers=3)), 2).data.workers == 3
    with pytest.raises(UserError, match="1000"):
        one_of(Config(train=TrainConfig(global_batch=1000)), 3)


def test_examination(fastvarcon, digits, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    flags = ("--recipe", "recipes/digits.py", "--data.train", digits[0], "--model.width", "0.125", "--seconds", "0.4")
    flags += ("--train.device", "cpu", "--train.threads", "1", "--train.global-batch", "64", "--data.workers", "1")
    said = fastvarcon("doctor", *flags)
    assert re.search(r"torch \d", said) and "--data.backend nvjpeg" in said and "cores of" in said
    rates = dict(re.findall(r"│ (\w[\w ,]+?) +│ +([\d,]+) +│ +[\d,.]+ +│", said))
    assert len(rates) == 4 and all(int(rate.replace(",", "")) > 0 for rate in rates.values())
    assert re.search(r"^verdict: (compute-bound|data-bound|shared): ", said, re.M)
    assert re.search(r"^projected: [\d,.]+ (hours|minutes) for 25 epochs of train.beton on 1 process", said, re.M)


@pytest.mark.parametrize(("hours", "words"), [(11.94, "11.9 hours"), (1.0, "1.0 hours"), (0.02, "1.2 minutes")])
def test_short_trainings_are_projected_in_minutes(hours, words):
    assert duration(hours) == words


def test_without_data_it_says_what_is_here(capsys):
    doctor(Config())
    said = capsys.readouterr().out
    assert "versions" in said and "verdict" not in said and "--recipe recipes/NAME.py --data.train FILE" in said
    with pytest.raises(UserError, match="--processes must be 0"):
        doctor(Config(), processes=-1)


@pytest.mark.parametrize(("seconds", "taken"), [(0, 1), (3600, WARM_UP)])
def test_slow_steps_are_warmed_up_by_one(seconds, taken):
    steps = iter(range(10))
    warm_up(steps, seconds)
    assert next(steps) == taken
