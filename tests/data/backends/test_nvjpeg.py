"""On the CPU with a decoder that stands in for nvJPEG: what goes to it and what becomes of its answers."""

import numpy as np
import pytest
import torch
from torchvision.io import ImageReadMode, decode_jpeg

from fastvarcon.data.backends import nvjpeg, open_backend
from fastvarcon.data.decode import ImageError
from fastvarcon.errors import UserError

pytestmark = [
    pytest.mark.filterwarnings("ignore:The given NumPy array is not writable"),  # pytest sets the filters back
    pytest.mark.filterwarnings("ignore:The image decoding and encoding capabilities of TorchVision are deprecated"),
]

IDS = np.array([11, 0, 3, 3, 7, 5])


class StandIn:
    """torchvision's CPU decoder. As nvJPEG does, it fails with a whole batch: at JPEGs of certain sizes in bytes."""

    def __init__(self):
        self.refuses: set[int] = set()
        self.batches: list[int] = []

    def __call__(self, jpegs, device):
        self.batches.append(len(jpegs))
        if any(len(jpeg) in self.refuses for jpeg in jpegs):
            raise RuntimeError("Failed to decode batch")
        return decode_jpeg(jpegs, mode=ImageReadMode.RGB, device=device)


@pytest.fixture
def decoder(monkeypatch):
    decoder = StandIn()
    monkeypatch.setattr(nvjpeg, "decode_jpegs", decoder)
    monkeypatch.setattr(nvjpeg, "require_gpu", lambda device: None)
    return decoder


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_without_a_gpu(beton, device):
    if device == "cuda" and torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    with pytest.raises(UserError, match=f"needs a CUDA device, and this run is on {device}: choose --data.backend cpu"):
        open_backend("nvjpeg", beton, device=device)


def test_planes_become_interleaved_pixels(beton, pixels, decoder, capfd):
    backend, cpu = open_backend("nvjpeg", beton, 2), open_backend("cpu", beton, 2)
    assert backend.name == "nvjpeg" and len(backend) == 12 and backend.fingerprint == cpu.fingerprint
    for ids in (IDS, np.arange(12), np.arange(0)):
        one, other = backend.fetch(ids), cpu.fetch(ids)
        for name, column in vars(one).items():
            assert torch.equal(column, getattr(other, name)), name
        assert all((one.image(slot).numpy() == pixels[index]).all() for slot, index in enumerate(ids))
    assert decoder.batches == [6, 12] and not capfd.readouterr().err
    backend.close(), backend.close()


def test_refused_image_comes_from_cpu(beton, pixels, jpegs, decoder, capfd):
    """The others of its batch do not; it is said once, and the decoder is not asked again."""
    decoder.refuses = {len(jpegs[3])}
    backend = open_backend("nvjpeg", beton, 2)
    for ids in (np.array([1, 3, 2]), np.array([3, 0])):
        batch = backend.fetch(ids)
        assert all((batch.image(slot).numpy() == pixels[index]).all() for slot, index in enumerate(ids))
    assert decoder.batches == [3, 1, 1, 1, 1]
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("warning: ") and line.endswith("a.beton record 3 is not for nvjpeg: backend cpu decodes it")


def test_decoder_that_takes_nothing_is_an_error(beton, jpegs, decoder):
    decoder.refuses = set(map(len, jpegs))
    with pytest.raises(RuntimeError, match="Failed to decode batch"):
        open_backend("nvjpeg", beton, 2).fetch(np.arange(4))


def test_mixed_file(mixed, decoder):
    """Neither raw pixels nor CMYK get to the decoder."""
    backend, cpu = open_backend("nvjpeg", mixed, 2), open_backend("cpu", mixed, 2)
    for ids in (np.arange(6), np.array([3, 4, 0, 5, 2, 1, 2])):
        one, other = backend.fetch(ids), cpu.fetch(ids)
        assert torch.equal(one.ids, other.ids) and torch.equal(one.labels, other.labels)
        assert all(torch.equal(one.image(i), other.image(i)) for i in range(len(ids)))
    assert decoder.batches == [3, 3]


def test_truncated_image_never_gets_to_the_decoder(broken, decoder):
    backend = open_backend("nvjpeg", broken, 2)
    with pytest.raises(ImageError, match=r"a\.beton record 3: broken image") as caught:
        backend.fetch(np.array([3]))
    assert caught.value.sample == 3 and not decoder.batches
    assert backend.fetch(np.array([5, 0])).ids.tolist() == [5, 0]


@pytest.mark.gpu
def test_on_the_gpu(beton, mixed):
    for path in (beton, mixed):
        backend, cpu = open_backend("nvjpeg", path, 2, device="cuda"), open_backend("cpu", path, 2)
        for ids in (np.arange(len(cpu)), np.array([1, 0, 1])):
            one, other = backend.fetch(ids), cpu.fetch(ids)
            assert one.pixels.is_cuda and not any(t.is_cuda for name, t in vars(one).items() if name != "pixels")
            for slot in range(len(ids)):
                difference = (one.image(slot).cpu().int() - other.image(slot).int()).abs().double()
                assert difference.mean() < 2.3


@pytest.mark.gpu
def test_memory_that_the_consumer_still_reads_is_left_alone(beton):
    """A batch is freed while a slow stream has yet to read it; later fetches must not get its memory."""
    backend = open_backend("nvjpeg", beton, 2, device="cuda")
    ids = np.arange(12)
    consumer = torch.cuda.Stream()
    with torch.cuda.stream(consumer):
        expected = backend.fetch(ids).pixels.long().sum()
        sums = []
        for _ in range(5):
            pixels = backend.fetch(ids).pixels
            torch.cuda._sleep(50_000_000)
            sums.append(pixels.long().sum())
            del pixels
            backend.fetch(ids[:6])
        consumer.synchronize()
    assert all(total == expected for total in sums)
