"""One image -> one record. PIL says what the pixels are; a record must be what every decoder reads alike."""

import contextlib
import io

import numpy as np
import pytest
import simplejpeg
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from fastvarcon.data.beton import JPG, RAW
from fastvarcon.data.decode import ImageError, decode_rgb
from fastvarcon.data_prep.encode import PRESETS, EncodeSettings, encode
from fastvarcon.errors import UserError

KEEP, RAW_PIXELS = EncodeSettings("keep"), EncodeSettings("raw")


def picture(width: int = 61, height: int = 43) -> Image.Image:
    y, x = np.mgrid[:height, :width]
    pixels = np.stack([2 * x + y, 255 - 3 * y, 128 + 100 * np.sin(x / 5 + y / 9)], -1).clip(0, 255)
    return Image.fromarray(pixels.astype(np.uint8))


def jpeg(image: Image.Image | None = None, **options) -> bytes:
    stream = io.BytesIO()
    (image or picture()).save(stream, "JPEG", **{"quality": 92, **options})
    return stream.getvalue()


def pixels_of(record) -> np.ndarray:
    return np.frombuffer(record.payload, np.uint8).reshape(record.height, record.width, 3)


@pytest.mark.parametrize("options", [{}, {"subsampling": 0}, {"subsampling": 1}, {"progressive": True}])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_jpeg_pixels_are_pils(mode, options):
    data = jpeg(picture().convert(mode), **options)
    record = encode(data, "a", RAW_PIXELS)
    assert record.mode == RAW and (pixels_of(record) == np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))).all()


def test_shrinking_is_pils_area_filter():
    data = jpeg()
    expected = Image.open(io.BytesIO(data)).resize((30, 21), Image.Resampling.BOX)
    assert (pixels_of(encode(data, "a", EncodeSettings("raw", 30))) == np.asarray(expected)).all()


@pytest.mark.parametrize("quality", [20, 90, 100])
def test_encoded_with_the_tables_of_its_quality_and_halved_colours(quality):
    """As good as PIL's: the quick encoder rounds otherwise, to within 1 % of the mean square error."""
    pixels = np.asarray(picture())
    record = encode(pixels, "a", EncodeSettings(quality=quality))
    ours = Image.open(io.BytesIO(record.payload))
    theirs = Image.open(io.BytesIO(jpeg(quality=quality, subsampling="4:2:0")))
    assert ours.quantization == theirs.quantization and ours.layer == theirs.layer
    errors = [np.square(np.asarray(image, dtype=float) - pixels).mean() for image in (ours, theirs)]
    assert errors[0] < 1.01 * errors[1]
    assert (record.mode, record.height, record.width) == (JPG, 43, 61)


def test_path_bytes_and_pixels_are_the_same(tmp_path):
    picture().save(tmp_path / "a.png")
    data = (tmp_path / "a.png").read_bytes()
    records = [encode(item, "a", EncodeSettings()) for item in (tmp_path / "a.png", data, np.asarray(picture()))]
    assert records[0] == records[1] == records[2]


def test_grey_pixels_without_channels():
    grey = np.asarray(picture().convert("L"))
    assert (pixels_of(encode(grey, "a", RAW_PIXELS)) == grey[..., None]).all()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("block", ["exif", "xmp"])
def test_rotation_is_applied(orientation, block):
    exif = Image.Exif()
    exif[0x0112] = orientation
    xmp = f'<x:xmpmeta><rdf tiff:Orientation="{orientation}"/></x:xmpmeta>'.encode()
    data = jpeg(**({"exif": exif} if block == "exif" else {"xmp": xmp}))
    upright = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))))
    assert (pixels_of(encode(data, "a", RAW_PIXELS)) == upright).all()
    kept = encode(data, "a", KEEP)
    assert (kept.payload == data) == (orientation == 1) and (kept.height, kept.width) == upright.shape[:2]


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "LA", "CMYK", "1", "I;16"])
def test_every_mode_becomes_rgb(tmp_path, mode):
    grey = np.linspace(0, 255, 64, dtype=np.uint8).reshape(8, 8)
    image = Image.fromarray(grey.astype(np.uint16) * 257) if mode == "I;16" else Image.fromarray(grey).convert(mode)
    image.save(tmp_path / ("a.tif" if mode == "CMYK" else "a.png"))
    rgb = pixels_of(encode(next(tmp_path.glob("a.*")), "a", RAW_PIXELS))
    assert rgb.shape == (8, 8, 3)
    if mode != "1":
        assert np.abs(rgb.astype(int) - grey[..., None]).max() <= 6  # palettes and CMYK round


def adobe(data: bytes, transform: int) -> bytes:
    """Another colour transform in Adobe's segment, which takes the place of JFIF's: 0 RGB or CMYK, 1 YCbCr, 2 YCCK."""
    at = data.find(b"Adobe")
    if at < 0:
        return data[:2] + b"\xff\xee\x00\x0eAdobe\x00\x64" + bytes(4) + bytes([transform]) + data[20:]
    return data[: at + 11] + bytes([transform]) + data[at + 12 :]


@pytest.mark.parametrize(("mode", "transform"), [("CMYK", 0), ("CMYK", 2), ("RGB", 0)])
def test_jpeg_in_other_colours_is_converted_and_never_kept(mode, transform):
    data = adobe(jpeg(picture().convert(mode)), transform)
    expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    assert (pixels_of(encode(data, "a", RAW_PIXELS)) == expected).all()
    kept = encode(data, "a", KEEP)
    assert kept.payload != data and simplejpeg.decode_jpeg_header(kept.payload)[2] == "YCbCr"


@pytest.mark.parametrize("options", [{}, {"icc_profile": bytes(500)}, {"progressive": True}, {"comment": b"hello"}])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_keep_copies_plain_jpegs(mode, options):
    data = jpeg(picture().convert(mode), **options)
    assert encode(data, "a", KEEP).payload == data


def test_keep_takes_one_picture_of_several():
    stream = io.BytesIO()
    picture().save(stream, "MPO", save_all=True, append_images=[picture()])
    record = encode(stream.getvalue(), "a", KEEP)
    assert len(record.payload) < len(stream.getvalue()) and b"MPF\0" not in record.payload


def test_keep_shrinks_what_is_too_large():
    record = encode(jpeg(), "a", EncodeSettings("keep", 30))
    assert (record.height, record.width) == (21, 30) == Image.open(io.BytesIO(record.payload)).size[::-1]
    assert encode(jpeg(), "a", EncodeSettings("keep", 61)).payload == jpeg()


@pytest.mark.parametrize("mode", ["jpg", "raw", "keep"])
def test_truncated_jpeg_is_refused(mode):
    data = jpeg(picture(200, 200))
    for cut in range(0, len(data) - 2, 97):
        with pytest.raises(ImageError, match=r"bee/2\.jpg"):
            encode(data[:cut], "bee/2.jpg", EncodeSettings(mode))


def test_damage_between_header_and_end_is_found_by_decoding():
    data = bytearray(jpeg(picture(200, 200)))
    data[-600:-300] = bytes(300)
    assert encode(bytes(data), "a", KEEP).payload == data
    for chosen in (EncodeSettings("keep", check="decode"), EncodeSettings(), RAW_PIXELS, EncodeSettings("keep", 30)):
        with pytest.raises(ImageError, match=r"^a: broken image .Corrupt JPEG data"):  # PIL reads over it
            encode(bytes(data), "a", chosen)
    assert encode(jpeg(), "a", EncodeSettings("keep", check="decode")).payload == jpeg()


@pytest.mark.parametrize("check", ["frame", "decode"])
@pytest.mark.parametrize(("frame", "precision"), [(0xC0, 12), (0xC1, 12), (0xC2, 12), (0xC3, 8), (0xC5, 8), (0xCB, 8)])
def test_frames_that_no_backend_reads_are_never_kept(frame, precision, check):
    """12 bits a sample, lossless, hierarchical."""
    data = bytearray(jpeg())
    at = data.index(b"\xff\xc0")
    data[at + 1], data[at + 4] = frame, precision
    with pytest.raises(ImageError, match=r"^a: a JPEG of a kind that decoders do not read"):
        encode(bytes(data), "a", EncodeSettings("keep", check=check))


def test_arithmetic_coding_is_never_kept():
    """Only some decoders take it: PIL here may, or may refuse it."""
    data = jpeg().replace(b"\xff\xc0", b"\xff\xc9", 1)
    for check in ("frame", "decode"):
        with contextlib.suppress(ImageError):
            assert encode(data, "a", EncodeSettings("keep", check=check)).payload != data


def test_padding_before_a_marker_is_no_reason_to_encode_again():
    data = jpeg()
    padded = data[:20] + b"\xff\xff" + data[20:]
    assert encode(padded, "a", KEEP).payload == padded


def test_keep_re_encodes_a_jpeg_that_only_pil_takes():
    """Bytes between two segments: libjpeg warns, PIL reads on. A record must not make any decoder complain."""
    data = jpeg()
    odd = data[:20] + b"\x00\x00" + data[20:]
    with pytest.raises(ValueError, match="extraneous"):
        simplejpeg.decode_jpeg(odd, strict=True)
    record = encode(odd, "a", KEEP)
    simplejpeg.decode_jpeg(record.payload, strict=True)
    assert record.payload != odd and pixels_of(encode(odd, "a", RAW_PIXELS)).tolist() == decode_rgb(data, "a").tolist()


def test_png_named_jpeg_is_read_by_its_content(tmp_path):
    Image.new("RGB", (4, 4), "blue").save(tmp_path / "a.png")
    (tmp_path / "a.png").rename(tmp_path / "a.JPEG")
    record = encode(tmp_path / "a.JPEG", "a.JPEG", KEEP)
    assert record.mode == JPG and record.payload.startswith(b"\xff\xd8")


@pytest.mark.parametrize("content", [b"", b"hello", b"\xff\xd8", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n" + bytes(20)])
@pytest.mark.parametrize("mode", ["jpg", "keep"])
def test_file_that_is_no_image(tmp_path, content, mode):
    (tmp_path / "a.jpg").write_bytes(content)
    with pytest.raises(ImageError, match=r"a\.jpg"):
        encode(tmp_path / "a.jpg", "a.jpg", EncodeSettings(mode))


def test_file_that_has_gone(tmp_path):
    with pytest.raises(ImageError, match=r"a\.jpg: cannot be read \(No such file"):
        encode(tmp_path / "a.jpg", "a.jpg", EncodeSettings())


@pytest.mark.parametrize("mode", ["I", "F"])
def test_pixels_without_a_range_are_refused(tmp_path, mode):
    Image.new(mode, (4, 4)).save(tmp_path / "a.tif")
    with pytest.raises(ImageError, match="32-bit"):
        encode(tmp_path / "a.tif", "a.tif", EncodeSettings())


def test_absurd_size_is_refused_before_it_is_allocated():
    data = jpeg()
    at = data.index(b"\xff\xc0") + 5
    with pytest.raises(ImageError, match="pixels, shrink it first"):
        encode(data[:at] + b"\xea\x60\xea\x60" + data[at + 4 :], "a", EncodeSettings())


@pytest.mark.parametrize(("mode", "side"), [("jpg", 65_501), ("raw", 65_536)])
def test_sides_that_the_format_cannot_hold(mode, side):
    with pytest.raises(ImageError, match="use --max-resolution"):
        encode(np.zeros((1, side, 3), np.uint8), "a", EncodeSettings(mode))
    assert encode(np.zeros((1, side - 1, 3), np.uint8), "a", EncodeSettings(mode)).width == side - 1


@pytest.mark.parametrize("values", [{"max_resolution": 0}, {"quality": 0}, {"quality": 101}])
def test_settings_out_of_range(values):
    with pytest.raises(UserError, match=r"--(max-resolution|quality)"):
        EncodeSettings(**values).validate()


def test_presets_are_valid():
    for preset in PRESETS.values():
        preset.validate()


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damaged_bytes_are_refused_or_give_a_sound_record(data):
    """Whatever is overwritten in a JPEG: an ImageError, or a record that a strict decoder takes, of the size told."""
    content = bytearray(jpeg(exif=b"Exif\0\0MM\0*\0\0\0\x08\0\0\0\0\0\0"))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(content) - 1) | st.integers(0, 700))
        patch = data.draw(st.binary(min_size=1, max_size=6))
        content[at : at + len(patch)] = patch
    for mode in ("keep", "jpg"):
        try:
            record = encode(bytes(content), "a", EncodeSettings(mode, 4000, check="decode"))
        except ImageError:
            continue
        assert simplejpeg.decode_jpeg(record.payload, strict=True).shape == (record.height, record.width, 3)
