"""Content decides what an image is where its name does not; what is left out is named, counted, and not too much."""

import io
import tarfile

import numpy as np
import pytest
from image_files import saved
from PIL import Image, features

from fastvarcon.data.backends import open_backend
from fastvarcon.data.image_folder import scan_image_folder
from fastvarcon.data.image_kinds import TEXT, kind_of, kind_of_file, listed
from fastvarcon.data_prep.convert import convert
from fastvarcon.data_prep.encode import EncodeSettings
from fastvarcon.data_prep.sources import open_source
from fastvarcon.errors import UserError

PICTURE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (12, 9, 3), dtype=np.uint8))
FTYP = b"\0\0\0\x18ftyp"
UNREADABLE = {
    "AVIF": FTYP + b"avif" + bytes(12),
    "HEIC": FTYP + b"heic" + bytes(12),
    "JP2": b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(20),
    "JPEG XL": b"\xff\x0a" + bytes(20),
    "camera raw": b"II*\0\x10\0\0\0CR\2\0" + bytes(20),
    "Photoshop": b"8BPS\0\1" + bytes(20),
    "DICOM": bytes(128) + b"DICM" + bytes(20),
    "SVG": b'<?xml version="1.0"?>\n<svg xmlns="x"></svg>',
    "PDF": b"%PDF-1.4\n",
}


@pytest.mark.parametrize("format", ["JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "PPM", "MPO"])
def test_what_pil_writes_is_known_by_its_content(format):
    for image in (PICTURE, PICTURE.convert("L")):
        kind, readable = kind_of(saved(image, format)[:512], "photo")
        assert readable and kind in (format, format.title(), {"WEBP": "WebP", "PPM": "PNM", "MPO": "JPEG"}.get(format))


@pytest.mark.parametrize(("format", "kind"), [("AVIF", "AVIF"), ("JPEG2000", "JP2")])
def test_what_pil_writes_and_conversion_does_not_read(format, kind):
    if not features.check({"AVIF": "avif", "JPEG2000": "jpg_2000"}[format]):
        pytest.skip(f"this Pillow writes no {format}")
    assert kind_of(saved(PICTURE, format)[:512], "photo.png") == (kind, False)


@pytest.mark.parametrize("kind", UNREADABLE)
def test_formats_that_are_not_read(kind):
    assert kind_of(UNREADABLE[kind], "a") == (kind, False)


def test_other_files(tmp_path):
    assert kind_of(b"P5 of all\n", "notes") == kind_of("Größe".encode()[:4] + b"\n", "a.txt") == (TEXT, False)
    assert kind_of(b"", "empty.dat") == kind_of(b"\xff\xfeh\0i\0", "a.txt") == (TEXT, False)
    assert kind_of(("x" * 511 + "ß").encode()[:512], "a.md") == (TEXT, False), "a letter cut in two"
    assert kind_of(b"\x93NUMPY\1\0", "a.NPY") == (".npy", False) and kind_of(bytes(9), "a") == ("", False)
    assert kind_of(bytes(9), "Thumbs.db") == (TEXT, False)
    assert kind_of(saved(PICTURE, "TIFF"), "a.nef") == ("camera raw", False), "its first image is a thumbnail"
    (tmp_path / "gone.x").symlink_to(tmp_path / "nowhere")
    assert kind_of_file(str(tmp_path / "gone.x")) == (".x", False)
    assert listed({"AVIF": 2, "": 1, TEXT: 3000}) == (
        "3,000 text files, 2 AVIF files, 1 file of unknown content without a suffix"
    )
    assert listed({f".{n}": 20 - n for n in range(10)}).endswith("13 .7 files, 23 others")


@pytest.fixture
def folder(tmp_path):
    """Two classes of two JPEGs each."""
    for name in ("ant", "bee"):
        (tmp_path / "images" / name).mkdir(parents=True)
        for number in range(2):
            (tmp_path / "images" / name / f"{number}.jpg").write_bytes(saved(PICTURE, "JPEG"))
    return tmp_path / "images"


def to_beton(source, **options):
    return convert(source, options.pop("out"), EncodeSettings("raw"), workers=1, **{"on_error": "stop", **options})


@pytest.mark.parametrize("name", ["x", "x.jfif", "x.jpe", "x.JPEG", "x.bin", "x.png", "photo.of.2021", "x.txt"])
def test_images_of_any_name_are_taken_everywhere(folder, tmp_path, name):
    for other in ("ant", "bee"):
        (folder / other / "0.jpg").rename(folder / other / f"0{name}")
        (folder / other / "1.jpg").rename(folder / other / f"1{name}")
    assert len(scan_image_folder(folder).paths) == len(open_source(folder)) == 4, "auto finds a folder"
    backend = open_backend("folder", folder)
    assert len(backend.fetch(np.arange(4))) == 4
    backend.close()
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for number, path in enumerate(sorted(folder.rglob("?" + name))):
            for suffix, content in (
                ("bin" if "." not in name else name.split(".")[-1], path.read_bytes()),
                ("cls", b"0"),
            ):
                member = tarfile.TarInfo(f"{number}.{suffix}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    source = open_source(tmp_path / "a.tar")
    assert len(source) == 4 and not source.left_out


@pytest.mark.parametrize("kind", [*UNREADABLE, ".npy"])
def test_more_than_a_handful_left_out_is_an_error(folder, tmp_path, kind):
    content = UNREADABLE.get(kind, b"\x93NUMPY\1\0")
    for number in range(8):
        (folder / "ant" / f"{number}{kind if kind[0] == '.' else ''}").write_bytes(content)
    (folder / "bee" / "x.avif").write_bytes(UNREADABLE["AVIF"])
    source = open_source(folder)
    with pytest.raises(
        UserError, match=rf"^images holds .*[89] {kind} files.*: convert them to JPEG.*--on-error skip$"
    ):
        to_beton(source, out=tmp_path / "a.beton")
    with pytest.raises(UserError, match=rf"images holds .*[89] {kind} files"):
        open_backend("folder", folder)
    assert to_beton(source, out=tmp_path / "a.beton", on_error="skip").written == 4
    assert sum(source.left_out.values()) == 9 == sum(source.first_per_class(1).left_out.values())


def test_text_beside_the_images_and_a_handful_are_left_out(folder, tmp_path):
    for number in range(50):
        (folder / "ant" / f"{number}.txt").write_text("a caption")
    for number in range(5):
        (folder / "ant" / f"{number}.heic").write_bytes(UNREADABLE["HEIC"])
    source = open_source(folder)
    assert source.left_out == {TEXT: 50, "HEIC": 5}
    assert to_beton(source, out=tmp_path / "a.beton").written == 4


def test_a_folder_of_nothing_else_is_named_by_its_kind(folder):
    for path in folder.rglob("*.jpg"):
        path.write_bytes(UNREADABLE["JPEG XL"])
        path.rename(path.with_suffix(".jxl"))
    with pytest.raises(UserError, match=r"class folder .*ant has no images that can be read, only 2 JPEG XL files"):
        open_source(folder)


def test_tar_members_that_are_not_read_are_counted(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for number in range(9):
            image = saved(PICTURE, "PNG") if number < 2 else UNREADABLE["AVIF"]
            for suffix, content in (("png" if number < 2 else "avif", image), ("cls", b"0")):
                member = tarfile.TarInfo(f"{number}.{suffix}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    source = open_source(tmp_path / "a.tar")
    assert len(source) == 2 and source.left_out == {"AVIF": 7}
    with pytest.raises(UserError, match=r"a\.tar holds 7 AVIF files, which cannot be read"):
        to_beton(source, out=tmp_path / "a.beton")
