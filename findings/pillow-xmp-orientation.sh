#!/usr/bin/env bash
# Pillow 11.1.0 and 11.2.1, Python 3.11, Linux x86-64, 2026-11.
#
# Expected: ImageOps.exif_transpose turns an image whose only orientation is in its XMP packet the same way in every
# format and in every release of Pillow 11.
#
# Seen: Pillow 11.1.0 heeds the XMP orientation of a PNG and not that of a JPEG: the JPEG stays on its side, without a
# warning, although `image.info["xmp"]` has the packet. From 11.2 on both are turned. A data set that was converted with
# one of them differs from the same conversion with the other, in sizes as well as in pixels.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
for release in 11.1.0 11.2.1; do
    python3 -m pip install --quiet --root-user-action ignore --target "$work/$release" "pillow==$release"
    PYTHONPATH="$work/$release" python3 - "$release" <<'PYTHON'
import io, sys
from PIL import Image, ImageOps, PngImagePlugin

XMP = ('<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
       '<rdf:Description xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="6"/></rdf:RDF></x:xmpmeta>')
picture = Image.new("RGB", (40, 20))

stream = io.BytesIO()
picture.save(stream, "JPEG")
packet = b"http://ns.adobe.com/xap/1.0/\0" + XMP.encode()
plain = stream.getvalue()
jpeg = plain[:2] + b"\xff\xe1" + (len(packet) + 2).to_bytes(2, "big") + packet + plain[2:]

stream, text = io.BytesIO(), PngImagePlugin.PngInfo()
text.add_itxt("XML:com.adobe.xmp", XMP)
picture.save(stream, "PNG", pnginfo=text)

def shown(data):
    return ImageOps.exif_transpose(Image.open(io.BytesIO(data))).size

assert Image.open(io.BytesIO(jpeg)).info["xmp"] == XMP.encode()
assert shown(stream.getvalue()) == (20, 40), "PNG: turned"
assert shown(jpeg) == {"11.1.0": (40, 20), "11.2.1": (20, 40)}[sys.argv[1]], shown(jpeg)
print(f"Pillow {sys.argv[1]}: the PNG is shown as {shown(stream.getvalue())}, the JPEG as {shown(jpeg)}")
PYTHON
done
