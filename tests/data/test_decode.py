"""Pixels are what the file says they are: depth, range, transparency, and data that a JPEG has lost."""

import io
import warnings
import zlib

import numpy as np
import pytest
import simplejpeg
from image_files import chunk, flat_jpeg, png16, saved, segment, tiff
from PIL import Image

from fastvarcon.data import decode as module
from fastvarcon.data.decode import (
    ImageError,
    Rendering,
    colour_of,
    decode,
    decode_jpeg_into,
    decode_rgb,
    over_background,
)
from fastvarcon.data_prep.encode import EncodeSettings, encode
from fastvarcon.errors import UserError

RNG = np.random.default_rng(0)


def grey(data: bytes, **rendering) -> np.ndarray:
    """[h, w] of an image whose channels are equal."""
    pixels = decode(data, "a", Rendering(**rendering)).pixels
    assert (pixels == pixels[..., :1]).all()
    return pixels[..., 0]


def ramp(limit: int, height: int = 7, width: int = 37) -> np.ndarray:
    """All of the range, both ends included; a width that fills no whole byte of 10, 12 or 14 bits."""
    return np.linspace(0, limit, height * width).round().astype(np.int64).reshape(height, width)


def assert_near(found: np.ndarray, exact: np.ndarray) -> None:
    """Within a level, white white and black black."""
    assert np.abs(found - exact).max() <= 1 and found.min() == exact.min() == 0 and found.max() == exact.max() == 255


# ---- more than 8 bits ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", [{}, {"deflate": True}, {"tile": 16}, {"tile": 16, "deflate": True}], ids=str)
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("photometric", [0, 1])
@pytest.mark.parametrize("bits", [9, 10, 12, 14, 15, 16])
def test_grey_tiff_of_any_depth(bits, photometric, order, layout):
    values = ramp(2**bits - 1)
    exact = values / (2**bits - 1) * 255
    data = tiff(values, bits, order=order, photometric=photometric, **layout)
    assert_near(grey(data), exact if photometric else 255 - exact)


@pytest.mark.parametrize("order", ["<", ">"])
def test_twelve_bits_are_those_that_pil_unpacks(order):
    data = tiff(ramp(4095), 12, order="<")
    assert (grey(data) == np.asarray(Image.open(io.BytesIO(data))) >> 4).all()


@pytest.mark.parametrize("deflate", [False, True])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("photometric", [0, 1])
def test_signed_tiff(photometric, order, deflate):
    values, options = ramp(32767), {"order": order, "photometric": photometric, "signed": True, "deflate": deflate}
    exact = values / 32767 * 255
    assert_near(grey(tiff(values, 16, **options)), exact if photometric else 255 - exact)
    with pytest.raises(ImageError, match="a: has negative values, whose brightness is undefined: store it unsigned"):
        grey(tiff(values - 1, 16, **options))


@pytest.mark.parametrize("bits", [10, 12, 14, 16])
def test_colour_tiff(bits):
    values = RNG.integers(0, 2**bits, (9, 13, 3))
    assert (decode_rgb(tiff(values, bits), "a") == values >> (bits - 8)).all()
    assert (decode(tiff(values >> (bits - 9), 16), "a", Rendering(depth=9)).pixels == values >> (bits - 8)).all()


@pytest.mark.parametrize("bits", [12, 16])
def test_orientation_of_a_deep_tiff(bits):
    """PIL turns the pixels itself; what it reads as bytes must be turned afterwards."""
    values = ramp(2**bits - 1)
    turned = grey(tiff(values, bits, orientation=6))
    assert (turned == np.rot90(grey(tiff(values, bits)), -1)).all()


@pytest.mark.parametrize("magic", [b"P2", b"P5"])
@pytest.mark.parametrize("maxval", [1, 100, 255, 256, 1023, 4095, 30_000, 65_535])
def test_pgm_of_any_maxval(magic, maxval):
    values = ramp(maxval)
    text = " ".join(map(str, values.ravel())).encode()
    body = text if magic == b"P2" else values.astype(">u2" if maxval > 255 else "u1").tobytes()
    assert_near(grey(magic + b"\n# made by hand\n37 7\n%d\n" % maxval + body), values / maxval * 255)


def test_sixteen_bit_colours_lose_their_lower_byte():
    values = RNG.integers(0, 65536, (9, 13, 3))
    ppm = b"P6 13 9 65535\n" + values.astype(">u2").tobytes()
    assert (decode_rgb(png16(values), "a") == values >> 8).all()
    assert np.abs(decode_rgb(ppm, "a").astype(int) - (values >> 8)).max() <= 1


@pytest.mark.parametrize("bits", [8, 9, 10, 12, 14, 16])
def test_depth_tells_what_the_file_does_not(bits):
    limit = 2**bits - 1
    values = ramp(limit)
    colours = RNG.integers(0, limit + 1, (9, 13, 3))
    colours[0, 0] = limit
    files = [png16(values[..., None]), tiff(values, 16), b"P5 37 7 65535\n" + values.astype(">u2").tobytes()]
    for data in files:
        assert (grey(data, depth=bits) == values >> (bits - 8)).all()
        assert decode(data, "a", Rendering(depth=bits)).largest == decode(data, "a").largest == limit
    for data in (
        png16(colours),
        tiff(colours, 16),
        tiff(colours, 16, order=">", deflate=True),
        b"P6 13 9 65535\n" + colours.astype(">u2").tobytes(),
    ):
        assert (decode(data, "a", Rendering(depth=bits)).pixels == colours >> (bits - 8)).all()
    if bits < 16:
        for data in (png16(2 * values[..., None] + 1), png16(2 * colours + 1)):
            with pytest.raises(ImageError, match=rf"a: has the value {2 * limit + 1}, more than the {limit} of --dep"):
                decode(data, "a", Rendering(depth=bits))


def test_depth_leaves_files_alone_that_state_theirs():
    for data in (tiff(ramp(4095), 12), b"P5 37 7 1023\n" + ramp(1023).astype(">u2").tobytes()):
        assert (grey(data, depth=9) == grey(data)).all() and decode(data, "a").largest is None
    eight = saved(Image.fromarray(ramp(255).astype(np.uint8)), "PNG")
    assert (grey(eight, depth=10) == ramp(255)).all() and decode(eight, "a").largest is None


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("bits", [8, 10, 12, 15])
def test_significant_bits_of_a_png(bits, channels):
    """Samples in the lower bits, and scaled to 16 as the standard wants them, in either way it allows: the same image.

    An opacity comes with as many bits.
    """
    limit = 2**bits - 1
    samples = RNG.integers(0, limit + 1, (9, 13, channels))
    samples[0, 0] = samples[0, 1] = limit
    if channels in (2, 4):
        samples[..., -1] = limit
    expected = samples[..., : 3 if channels > 2 else 1] >> (bits - 8)
    told = chunk(b"sBIT", bytes([bits] * channels))
    for values in (samples, samples << (16 - bits), (samples * 65535 / limit).round().astype(int)):
        assert np.abs(decode(png16(values, told), "a").pixels.astype(int) - expected).max() <= 1
    assert (decode(png16(samples, told), "a").pixels == expected).all()
    assert decode(png16(samples, told), "a").largest is None


def test_numbers_without_a_range_are_refused():
    for image in (Image.new("F", (4, 4)), Image.new("I", (4, 4))):
        with pytest.raises(ImageError, match="a: 32-bit pixels have no defined range"):
            decode(saved(image, "TIFF"), "a")
    with pytest.raises(ImageError, match="32-bit pixels"):
        decode(b"Pf 4 4\n-1.0\n" + bytes(64), "a")


# ---- transparency --------------------------------------------------------------------------------------------------


def blended(image: Image.Image, background: str = "white") -> np.ndarray:
    paper = Image.new("RGBA", image.size, background)
    paper.alpha_composite(image.convert("RGBA"))
    return np.asarray(paper.convert("RGB"))


def see_through() -> dict[str, bytes]:
    """Files of every form of transparency that PIL writes."""
    colours = Image.fromarray(RNG.integers(0, 256, (9, 13, 4), dtype=np.uint8), "RGBA")
    palette = Image.fromarray(RNG.integers(0, 4, (9, 13), dtype=np.uint8), "L").quantize(4)
    grey = Image.fromarray(RNG.integers(0, 4, (9, 13), dtype=np.uint8), "L")
    keyed = colours.convert("RGB")
    keyed.putpixel((0, 0), (1, 2, 3))
    return {
        "png RGBA": saved(colours, "PNG"),
        "png LA": saved(colours.convert("LA"), "PNG"),
        "png palette": saved(palette, "PNG", transparency=bytes([0, 100, 255, 200])),
        "png palette, one": saved(palette, "PNG", transparency=2),
        "png grey": saved(grey, "PNG", transparency=3),
        "png black and white": saved(grey.point(lambda x: 255 * (x > 1), "1"), "PNG", transparency=0),
        "png RGB": saved(keyed, "PNG", transparency=(1, 2, 3)),
        "gif": saved(palette, "GIF", transparency=1),
        "webp": saved(colours, "WEBP", lossless=True, exact=True),
        "tiff RGBA": saved(colours, "TIFF"),
        "tiff LA": saved(colours.convert("LA"), "TIFF"),
    }


FORMS = see_through()


@pytest.mark.parametrize("background", ["white", "#204060"])
@pytest.mark.parametrize("form", FORMS)
def test_what_is_transparent_shows_the_background(form, background):
    found = decode(FORMS[form], "a", Rendering(colour_of(background)))
    assert found.transparent and (found.pixels == blended(Image.open(io.BytesIO(FORMS[form])), background)).all()


@pytest.mark.parametrize("mode", ["RGBA", "RGBa", "LA", "La", "PA"])
def test_transparency_in_every_mode_of_pil(mode):
    colours = Image.fromarray(RNG.integers(0, 256, (9, 13, 4), dtype=np.uint8), "RGBA")
    image = colours.convert("LA").convert("La") if mode == "La" else colours
    if mode == "PA":
        image = Image.merge("PA", (colours.convert("RGB").quantize(16), colours.getchannel("A")))
    image = image.convert(mode)
    again = image.convert("LA") if mode == "La" else image
    rgb, transparent = over_background(image, (255, 255, 255))
    assert transparent and (np.asarray(rgb) == blended(again)).all()


def test_a_palette_may_hold_the_opacity():
    image = Image.new("P", (2, 1))
    image.putpalette([0, 0, 0, 255, 0, 0, 0, 0], "RGBA")
    image.putpixel((1, 0), 1)
    rgb, transparent = over_background(image, (255, 255, 255))
    assert transparent and np.asarray(rgb).tolist() == [[[0] * 3, [255] * 3]]


def test_opaque_images_are_not_said_to_be_transparent():
    opaque = Image.fromarray(RNG.integers(0, 256, (9, 13, 3), dtype=np.uint8))
    found = decode(saved(opaque.convert("RGBA"), "PNG"), "a", Rendering((0, 0, 0)))
    assert not found.transparent and (found.pixels == np.asarray(opaque)).all()


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_the_transparent_grey_of_a_png(bits):
    """PIL stretches the pixels of 2 and 4 bits to 8, and leaves the grey that is transparent as it is."""
    values = np.arange(32).reshape(4, 8) % 2**bits
    rows = b"".join(b"\0" + np.packbits(row).tobytes() for row in _bit_planes(values, bits))
    head = (8).to_bytes(4, "big") + (4).to_bytes(4, "big") + bytes([bits, 0, 0, 0, 0])
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"tRNS", b"\0\1")
    data += chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    shown = np.where(values == 1, 255, values * 255 // (2**bits - 1))
    assert (grey(data) == shown).all()


def _bit_planes(values: np.ndarray, bits: int) -> np.ndarray:
    return ((values[..., None] >> np.arange(bits - 1, -1, -1)) & 1).reshape(len(values), -1).astype(np.uint8)


@pytest.mark.parametrize("channels", [1, 3])
def test_the_transparent_colour_of_a_deep_png_has_16_bits(channels):
    """Two pixels that differ in their lower bytes alone: one is transparent."""
    values = np.full((2, 2, channels), 0x1234)
    values[0, 0] = 0x1235
    data = png16(values, chunk(b"tRNS", b"\x12\x35" * channels))
    found = decode(data, "a", Rendering((255, 0, 0)))
    assert found.transparent and found.pixels[0, 0].tolist() == [255, 0, 0]
    assert (found.pixels.reshape(4, 3)[1:] == 0x12).all()


@pytest.mark.parametrize("text", ["whiteish", "#12345", "#ff000080", "rgba(1,2,3,4)", ""])
def test_a_background_is_a_colour(text):
    with pytest.raises(UserError, match=r"--background .* is not a colour: give a name, as white, or #rrggbb"):
        colour_of(text)


def test_pil_warns_of_nothing():
    """Of a palette with several transparent entries it warned for every image."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        decode(FORMS["png palette"], "a")
    assert not said


# ---- JPEG ----------------------------------------------------------------------------------------------------------


def photo() -> Image.Image:
    coarse = Image.fromarray(np.random.default_rng(1).integers(0, 256, (15, 20, 3), dtype=np.uint8))
    return coarse.resize((160, 120), Image.Resampling.BICUBIC)


WHOLE, PROGRESSIVE = (saved(photo(), "JPEG", quality=90, progressive=progressive) for progressive in (False, True))
AFTER_JFIF = 20
ADOBE = b"Adobe\0\x64" + bytes(4)
SCAN = WHOLE.index(b"\xff\xda")
HARMLESS = {
    "bytes between segments": WHOLE[:AFTER_JFIF] + b"\0\0" + WHOLE[AFTER_JFIF:],
    "FF 00 between segments": WHOLE[:AFTER_JFIF] + b"\xff\0\xff\0" + WHOLE[AFTER_JFIF:],
    "restart marks between segments": WHOLE[:AFTER_JFIF] + b"a\xff\xd0" + WHOLE[AFTER_JFIF:],
    "fill bytes": WHOLE[:AFTER_JFIF] + b"\xff\xff" + WHOLE[AFTER_JFIF:],
    "bytes behind the end": WHOLE + b"hello" * 50,
    "a second picture behind the end": WHOLE + PROGRESSIVE,
    "zero bytes before the end": WHOLE[:-2] + bytes(40) + WHOLE[-2:],
    "zero bytes behind a scan": PROGRESSIVE[:-2] + bytes(40) + PROGRESSIVE[-2:],
    "another JFIF version": WHOLE[:11] + b"\5" + WHOLE[12:],
    "unknown Adobe colours": WHOLE[:2] + segment(0xEE, ADOBE + b"\2") + WHOLE[AFTER_JFIF:],
    "unknown Adobe colours beside JFIF": WHOLE[:AFTER_JFIF] + segment(0xEE, ADOBE + b"\7") + WHOLE[AFTER_JFIF:],
    "a torn colour profile": WHOLE[:AFTER_JFIF] + segment(0xE2, b"ICC_PROFILE\0\2\1abc") + WHOLE[AFTER_JFIF:],
    "no scan parameters": WHOLE[: SCAN + 11] + bytes(3) + WHOLE[SCAN + 14 :],
}


def as_pil(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def into(data: bytes) -> np.ndarray:
    target = np.empty((120, 160, 3), np.uint8)
    decode_jpeg_into(data, target, "a")
    return target


@pytest.mark.parametrize("oddity", HARMLESS)
def test_harmless_oddities_are_accepted(oddity):
    data = HARMLESS[oddity]
    assert (decode_rgb(data, "a") == as_pil(data)).all() and (into(data) == as_pil(data)).all()


def test_most_of_them_are_warned_of():
    """Else nothing above shows that warnings are looked into."""
    warned = [oddity for oddity, data in HARMLESS.items() if module.jpeg_warning(data)]
    assert len(warned) >= 8 and all("\x00" not in oddity for oddity in warned)


@pytest.mark.parametrize("chroma", [(1, 1), (1, 2)])
@pytest.mark.parametrize("luma", [(1, 1), (2, 2), (3, 1), (4, 1)])
def test_any_chroma_sampling(luma, chroma):
    """libjpeg-turbo's interface has names for some of them alone."""
    data = flat_jpeg(50, 40, [luma, chroma, (1, 1)])
    assert (decode_rgb(data, "a") == 128).all() and decode_rgb(data, "a").shape == (40, 50, 3)
    record = encode(data, "a", EncodeSettings("keep", check="decode"))
    assert simplejpeg.decode_jpeg(record.payload, strict=True).shape == (40, 50, 3)


def halved(data: bytes) -> bytes:
    return data[: len(data) // 2] + b"\xff\xd9"


LOST = {
    "half": halved(WHOLE),
    "half of a progressive one": halved(PROGRESSIVE),
    "half of one that is odd": halved(HARMLESS["bytes between segments"]),
    "zeros in the place of the lower half": WHOLE[: len(WHOLE) // 2] + bytes(len(WHOLE) // 2 - 2) + b"\xff\xd9",
    "a hole": WHOLE[: len(WHOLE) // 2] + WHOLE[len(WHOLE) // 2 + 200 :],
    "other bytes": WHOLE[:-800] + bytes(range(200)) + WHOLE[-600:],
    "text before the end": WHOLE[:-2] + b"hello world" + WHOLE[-2:],
}


@pytest.mark.parametrize("loss", LOST)
def test_lost_data_is_a_broken_image(loss):
    """PIL shows most of these without a word."""
    data = LOST[loss]
    for read in (into, lambda data: decode_rgb(data, "a")):
        with pytest.raises(ImageError, match=r"^a: broken image .(Corrupt|Premature|image file is truncated)"):
            read(data)


@pytest.mark.parametrize("mode", ["L", "CMYK"])
def test_other_colours_are_looked_at_as_well(mode):
    data = saved(photo().convert(mode), "JPEG", quality=90)
    assert (decode_rgb(data, "a") == as_pil(data)).all()
    with pytest.raises(ImageError, match="a: broken image"):
        decode_rgb(halved(data), "a")


@pytest.mark.parametrize(
    ("frame", "precision", "form"),
    [
        *((frame, 12, "12 bits a sample") for frame in (0xC0, 0xC1, 0xC2, 0xC3)),
        *((frame, 8, "lossless") for frame in (0xC3, 0xCB)),
        *((frame, 8, "hierarchical") for frame in (0xC5, 0xC7, 0xCD)),
    ],
)
def test_a_frame_that_decoders_do_not_read_is_named(frame, precision, form):
    at = WHOLE.index(b"\xff\xc0")
    data = WHOLE[: at + 1] + bytes([frame]) + WHOLE[at + 2 : at + 4] + bytes([precision]) + WHOLE[at + 5 :]
    for read in (into, lambda data: decode_rgb(data, "a")):
        with pytest.raises(
            ImageError, match=rf"a: a JPEG of a kind that decoders do not read .{form}.: store it again"
        ):
            read(data)


def test_damage_is_never_taken_for_an_oddity():
    """What a strict decoder takes after its oddities are gone shows what it showed of the undamaged file."""
    rng = np.random.default_rng(0)
    for data in (WHOLE, PROGRESSIVE):
        for _ in range(60):
            broken, at = bytearray(data), int(rng.integers(700, len(data) - 300))
            broken[at : at + 200] = rng.bytes(200).replace(b"\xff", b"\0")
            try:
                simplejpeg.decode_jpeg(bytes(broken), strict=True)
            except ValueError:
                with pytest.raises(ImageError):
                    into(bytes(broken))


# ---- files ---------------------------------------------------------------------------------------------------------


def test_a_file_beyond_2_gib_is_refused_before_it_is_read(tmp_path):
    with open(tmp_path / "a.jpg", "wb") as file:
        file.write(WHOLE)
        file.truncate(5 << 30)  # takes no space
    with pytest.raises(ImageError, match=r"a\.jpg: 5\.0 GiB, an image file may have 2 GiB at most"):
        decode(tmp_path / "a.jpg", "a.jpg")


def test_a_format_that_is_not_read_is_named():
    avif = b"\0\0\0\x20ftypavif\0\0\0\0" + bytes(40)
    with pytest.raises(ImageError, match=r"a: not an image that can be read .AVIF.: convert it to JPEG or PNG"):
        decode(avif, "a")
