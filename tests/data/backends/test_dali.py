import os
import sys

import numpy as np
import pytest
import torch

from fastvarcon.data.backends import open_backend
from fastvarcon.data.decode import ImageError
from fastvarcon.errors import UserError

IDS = np.array([11, 0, 3, 3, 7, 5])


def test_missing_package_says_what_to_install(beton, monkeypatch):
    monkeypatch.setitem(sys.modules, "nvidia.dali", None)
    with pytest.raises(UserError, match=r'pip install "fastvarcon\[dali\]"'):
        open_backend("dali", beton)


class TestOnTheCpu:
    @pytest.fixture(autouse=True)
    def _dali(self):
        pytest.importorskip("nvidia.dali", reason="NVIDIA DALI is not installed: pip install 'fastvarcon[dali]'")

    def test_delivers_what_cpu_delivers(self, beton, pixels, capfd):
        """The same batch in every column, pixels to the bit, and PIL's pixels."""
        dali, cpu = open_backend("dali", beton, 2), open_backend("cpu", beton, 2)
        assert dali.name == "dali (cpu)" and len(dali) == 12
        assert dali.classes == cpu.classes and dali.fingerprint == cpu.fingerprint
        one, other = dali.fetch(IDS), cpu.fetch(IDS)
        for name, column in vars(one).items():
            assert torch.equal(column, getattr(other, name)), name
        for slot, index in enumerate(IDS):
            assert (one.image(slot).numpy() == pixels[index]).all()
        assert not capfd.readouterr().err  # nothing came from elsewhere
        dali.close(), dali.close()

    def test_batches_of_any_size(self, beton, pixels):
        """Smaller ones run in the pipeline that is there."""
        dali = open_backend("dali", beton, 2)
        pipelines = []
        for size in (5, 2, 5, 12, 1):
            batch = dali.fetch(np.arange(size))
            pipelines.append(dali._pipeline)
            assert all((batch.image(i).numpy() == pixels[i]).all() for i in range(size))
        assert pipelines[0] is pipelines[1] is pipelines[2] is not pipelines[3]
        assert pipelines[3] is pipelines[4]
        assert len(dali.fetch(np.arange(0))) == 0

    def test_writes_into_the_buffer_it_is_given(self, mixed):
        buffers = []

        def allocate(size):
            buffers.append(torch.empty(size + 100, dtype=torch.uint8))
            return buffers[-1]

        batch = open_backend("dali", mixed, 2).fetch(np.arange(6), allocate)
        assert len(buffers) == 1 and batch.pixels is buffers[0]

    def test_mixed_file(self, mixed, capfd):
        """Raw pixels are copied, the CMYK picture comes from cpu and that is said once; DALI gets over the oddity."""
        dali, cpu = open_backend("dali", mixed, 2), open_backend("cpu", mixed, 2)
        for ids in (np.arange(6), np.array([3, 4, 0, 5, 2, 1, 2]), np.array([0, 3])):
            one, other = dali.fetch(ids), cpu.fetch(ids)
            assert torch.equal(one.ids, other.ids) and torch.equal(one.labels, other.labels)
            assert all(torch.equal(one.image(i), other.image(i)) for i in range(len(ids)))
        warnings = [line for line in capfd.readouterr().err.splitlines() if line.startswith("warning: ")]
        assert len(warnings) == 1
        assert warnings[0].endswith("a.beton record 2 is not for dali (cpu): backend cpu decodes it")

    def test_broken_image_is_named_and_the_backend_goes_on(self, broken, pixels):
        dali = open_backend("dali", broken, 2)
        for ids in (np.arange(6), np.array([3])):
            with pytest.raises(ImageError, match=r"a\.beton record 3: broken image") as caught:
                dali.fetch(ids)
            assert caught.value.sample == 3
            batch = dali.fetch(np.array([5, 0]))
            assert (batch.image(0).numpy() == pixels[5]).all() and (batch.image(1).numpy() == pixels[0]).all()

    def test_broken_image_is_replaced(self, broken, pixels):
        batch = open_backend("dali", broken, 2, on_bad_image="replace").fetch(np.arange(6))
        assert batch.ids.tolist() == [0, 1, 2, 5, 4, 5] and (batch.image(3).numpy() == pixels[5]).all()

    def test_fault_of_dali_is_not_blamed_on_images(self, beton, monkeypatch):
        dali = open_backend("dali", beton, 2)
        monkeypatch.setattr(dali, "_build", lambda: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            dali.fetch(np.arange(3))

        def out_of_memory():
            raise RuntimeError("out of memory")

        monkeypatch.setattr(dali, "_build", out_of_memory)
        with pytest.raises(RuntimeError, match="out of memory"):
            dali.fetch(np.arange(3))

    def test_shards(self, tmp_path, write_beton, jpegs, pixels):
        for part in range(2):
            write_beton(tmp_path / f"a-0000{part + 1}-of-00002.beton", jpegs[6 * part : 6 * part + 6])
        batch = open_backend("dali", tmp_path, 2).fetch(IDS)
        assert all((batch.image(slot).numpy() == pixels[index]).all() for slot, index in enumerate(IDS))

    @pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="needs /proc")
    def test_leaves_no_threads(self, beton):
        before = len(os.listdir("/proc/self/task"))
        for _ in range(3):
            dali = open_backend("dali", beton, 3)
            dali.fetch(IDS)
            dali.close()
        assert len(os.listdir("/proc/self/task")) <= before


@pytest.mark.gpu
def test_mixed_decoder_stays_on_the_gpu(beton, mixed):
    pytest.importorskip("nvidia.dali")
    for path in (beton, mixed):
        dali, cpu = open_backend("dali", path, 2, device="cuda"), open_backend("cpu", path, 2)
        assert dali.name == "dali (mixed)"
        for ids in (np.arange(len(cpu)), np.array([1, 0, 1])):
            one, other = dali.fetch(ids), cpu.fetch(ids)
            assert one.pixels.is_cuda and not any(
                column.is_cuda for name, column in vars(one).items() if name != "pixels"
            )
            for slot in range(len(ids)):
                difference = (one.image(slot).cpu().int() - other.image(slot).int()).abs().double()
                assert difference.mean() < 2


@pytest.mark.gpu
def test_mixed_decoder_names_a_broken_image(broken):
    pytest.importorskip("nvidia.dali")
    dali = open_backend("dali", broken, 2, device="cuda")
    with pytest.raises(ImageError, match="record 3") as caught:
        dali.fetch(np.arange(6))
    assert caught.value.sample == 3 and len(dali.fetch(np.array([0, 5]))) == 2
