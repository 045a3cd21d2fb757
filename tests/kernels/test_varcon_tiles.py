"""Which tile a shape takes, and how it is measured."""

import pytest
import torch

from fastvarcon.kernels import varcon_tiles
from fastvarcon.kernels.varcon_tiles import Tile, row_tile, tuned


def test_tiles_by_size():
    """Rows in one pass up to D = 256; long rows, and few rows against many classes, in chunks."""
    assert row_tile(8192, 1000, 128, torch.float16).rows == 64 and row_tile(65536, 1000, 256, torch.float16).rows == 128
    assert row_tile(8192, 1000, 200, torch.float16).rows == 64 and row_tile(64, 100, 128, torch.float32).rows == 128
    assert row_tile(65536, 22000, 512, torch.float16) is None and row_tile(512, 22000, 128, torch.float16) is None


@pytest.fixture
def measured(monkeypatch) -> list[Tile]:
    """Tiles in the order in which they are timed, by a clock by which few rows and warps are fast."""
    tiles: list[Tile] = []

    def do_bench(run) -> float:
        run()
        return tiles[-1].rows + tiles[-1].warps

    monkeypatch.setenv("FASTVARCON_AUTOTUNE", "1")
    monkeypatch.setattr(varcon_tiles, "INTERPRETED", False)
    monkeypatch.setattr(varcon_tiles, "_measured", {})
    monkeypatch.setattr(varcon_tiles.triton.testing, "do_bench", do_bench)
    return tiles


TILE = Tile(128, 64, 8, 3)


def test_autotuning_takes_the_fastest_and_measures_once(measured, monkeypatch):
    def launch(tile):
        measured.append(tile)
        return torch.ones(3), None

    monkeypatch.delenv("FASTVARCON_AUTOTUNE")
    assert tuned("shape", TILE, launch) is TILE and not measured
    monkeypatch.setenv("FASTVARCON_AUTOTUNE", "1")
    fastest = tuned("shape", TILE, launch)
    assert (fastest.rows, fastest.warps) == (64, 4) and len(set(measured)) > 10
    count = len(measured)
    assert tuned("shape", TILE, launch) is fastest and len(measured) == count


def test_autotuning_leaves_out_what_does_not_fit(measured):
    def launch(tile):
        measured.append(tile)
        if tile.rows == 64:
            raise varcon_tiles.triton.runtime.errors.OutOfResources(300_000, 232_448, "shared memory")
        return (torch.ones(3),)

    assert tuned("shape", TILE, launch).rows == 128
