import sys
import threading

import numpy as np
import pytest
import torch

from fastvarcon.data.backends import open_backend
from fastvarcon.data.decode import ImageError
from fastvarcon.errors import UserError

TYPES = """
import sys, numba, numpy as np
from fastvarcon.data.backends import open_backend
first = numba.njit(lambda x: x[0])
first(np.zeros(1, np.uint8))
open_backend("ffcv", sys.argv[1], 1).fetch(np.arange(4))
first(np.zeros(1, np.uint8))
print(numba.uint8[::1].mutable, len(first.signatures), len(first.overloads))
"""

IDS = np.array([11, 0, 3, 3, 7, 5])


def test_missing_package_says_what_to_install(beton, monkeypatch):
    monkeypatch.delitem(sys.modules, "fastvarcon.data.backends.ffcv_pipeline", raising=False)
    monkeypatch.setitem(sys.modules, "ffcv.fields", None)
    with pytest.raises(UserError, match=r'pip install "fastvarcon\[ffcv\]" \(needs libturbojpeg0-dev'):
        open_backend("ffcv", beton)


@pytest.fixture
def ffcv():
    return pytest.importorskip(
        "ffcv", reason="the ffcv package is not installed: it needs libturbojpeg0-dev, libopencv-dev, pkg-config"
    )


@pytest.mark.usefixtures("ffcv")
class TestBackend:
    @pytest.mark.parametrize("workers", [1, 2])
    def test_delivers_what_cpu_delivers(self, beton, workers, capfd):
        """Up to the fast DCT, in batches of any size, the same image twice."""
        ffcv, cpu = open_backend("ffcv", beton, workers), open_backend("cpu", beton, 1)
        assert len(ffcv) == 12 and ffcv.classes == cpu.classes and ffcv.fingerprint == cpu.fingerprint
        for ids in (IDS, np.array([2]), np.arange(12), np.arange(0)):
            one, other = ffcv.fetch(ids), cpu.fetch(ids)
            for name in ("offset", "height", "width", "row_stride", "labels", "ids"):
                assert torch.equal(getattr(one, name), getattr(other, name)), name
            for slot in range(len(ids)):
                difference = (one.image(slot).int() - other.image(slot).int()).abs()
                assert difference.max() <= 25 and difference.double().mean() <= 2.2
        assert not capfd.readouterr().err  # nothing came from elsewhere
        ffcv.close(), ffcv.close()

    def test_leaves_the_types_of_other_compiled_code_alone(self, run_python, beton):
        """ffcv made numba's uint8 array read-only for the whole process: what was compiled for it was not found again.

        In a process of its own, which it could spoil."""
        done = run_python("-c", TYPES, beton)
        assert done.stdout.split() == ["True", "1", "1"], done.stderr

    def test_delivers_the_pixels_of_ffcvs_own_decoder(self, tmp_path, write_beton, jpegs, read_with_ffcv):
        """Which takes images of one size alone."""
        path = write_beton(tmp_path / "a.beton", 4 * jpegs[2:3])
        theirs, _ = read_with_ffcv(path, True, "SimpleRGBImageDecoder")
        batch = open_backend("ffcv", path, 1).fetch(np.arange(4))
        assert all((batch.image(i).numpy() == theirs[i]).all() for i in range(4))

    def test_mixed_file(self, mixed, capfd):
        """Raw pixels are copied; what ffcv garbles comes from cpu, which is said once."""
        ffcv, cpu = open_backend("ffcv", mixed, 2), open_backend("cpu", mixed, 2)
        for ids in (np.arange(6), np.array([3, 4, 0, 5, 2, 1, 2]), np.array([0, 3])):
            buffers = []

            def allocate(size, buffers=buffers):
                buffers.append(torch.empty(size + 100, dtype=torch.uint8))
                return buffers[-1]

            one, other = ffcv.fetch(ids, allocate), cpu.fetch(ids)
            assert len(buffers) == 1 and one.pixels is buffers[0]
            assert torch.equal(one.ids, other.ids) and torch.equal(one.labels, other.labels)
            for slot, index in enumerate(ids):
                if index in (1, 5):
                    assert (one.image(slot).int() - other.image(slot).int()).abs().double().mean() <= 2.2
                else:
                    assert torch.equal(one.image(slot), other.image(slot))
        warnings = sorted(line for line in capfd.readouterr().err.splitlines() if line.startswith("warning: "))
        assert len(warnings) == 2
        for line, index in zip(warnings, (2, 4), strict=True):
            assert line.endswith(f"a.beton record {index} is not for {ffcv.name}: backend cpu decodes it")

    def test_broken_image_is_named_and_the_backend_goes_on(self, broken):
        ffcv = open_backend("ffcv", broken, 2)
        for ids in (np.arange(6), np.array([3])):
            with pytest.raises(ImageError, match=r"a\.beton record 3: broken image") as caught:
                ffcv.fetch(ids)
            assert caught.value.sample == 3
            assert ffcv.fetch(np.array([5, 0])).ids.tolist() == [5, 0]
        batch = open_backend("ffcv", broken, 2, on_bad_image="replace").fetch(np.arange(6))
        assert batch.ids.tolist() == [0, 1, 2, 5, 4, 5]

    def test_shards_are_refused(self, tmp_path, write_beton, jpegs):
        for part in range(2):
            write_beton(tmp_path / f"a-0000{part + 1}-of-00002.beton", jpegs[6 * part : 6 * part + 6])
        with pytest.raises(UserError, match=r"is not one \.beton file: ffcv reads nothing else"):
            open_backend("ffcv", tmp_path)

    def test_leaves_threads_as_they_were(self, beton):
        """ffcv's Loader starts one per epoch and sets those of torch."""
        from ffcv.loader.epoch_iterator import EpochIterator

        before = torch.get_num_threads()
        ffcv = open_backend("ffcv", beton, 1)
        for _ in range(5):
            ffcv.fetch(IDS)
        assert torch.get_num_threads() == before
        assert not any(isinstance(thread, EpochIterator) for thread in threading.enumerate())
