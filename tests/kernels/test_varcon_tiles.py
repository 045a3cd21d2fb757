"""Which tile a shape takes, and how it is measured."""

import torch


def test_tiles_by_size():
    """Rows in one pass up to D = 256; long rows, and few rows against many classes, in chunks."""
    from fastvarcon.kernels.varcon_tiles import row_tile

    assert row_tile(8192, 1000, 128, torch.float16).rows == 64 and row_tile(65536, 1000, 256, torch.float16).rows == 128
    assert row_tile(8192, 1000, 200, torch.float16).rows == 64 and row_tile(64, 100, 128, torch.float32).rows == 64
    assert row_tile(65536, 22000, 512, torch.float16) is None and row_tile(512, 22000, 128, torch.float16) is None


def test_autotuning_takes_the_fastest_and_measures_once(monkeypatch):
    from fastvarcon.kernels import varcon_tiles

    measured = []
    monkeypatch.setattr(varcon_tiles, "INTERPRETED", False)
    monkeypatch.setattr(
        varcon_tiles, "_milliseconds", lambda launch, tile: measured.append(tile) or tile.rows + tile.warps
    )
    tile = varcon_tiles.Tile(128, 64, 8, 3)
    assert varcon_tiles.tuned("shape", tile, print) is tile and not measured
    monkeypatch.setenv("FASTVARCON_AUTOTUNE", "1")
    assert varcon_tiles.tuned("shape", tile, print).rows == 64 and len(measured) == len(set(measured)) > 10
    count = len(measured)
    assert varcon_tiles.tuned("shape", tile, print).warps == 4 and len(measured) == count
