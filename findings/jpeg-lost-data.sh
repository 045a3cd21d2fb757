#!/usr/bin/env bash
# Pillow 13.0.0 (libjpeg-turbo 3), simplejpeg 1.9.0 (libjpeg-turbo 3), numpy 2.2.6, Python 3.11, Linux x86-64, 2026-11.
#
# Expected: Pillow refuses a JPEG whose lower half is missing, and simplejpeg's strict mode says what was lost.
#
# Seen: with an end mark behind the cut, Pillow decodes it without error or warning, LOAD_TRUNCATED_IMAGES or not: it
# passes over all warnings of libjpeg. simplejpeg (strict) raises, but with the first warning alone, so one about two
# harmless bytes between header segments hides the loss of half of the image, and the text is that of a complete file
# with the same two bytes. Overwritten data is nearly always reported as "N extraneous bytes before marker 0xd9", which
# is also what harmless zero bytes before the end give: the text alone does not tell damage from an oddity. A
# progressive JPEG without its last scan, but with an end mark, passes without any warning.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m pip install --quiet --root-user-action ignore --target "$work/lib" \
    "pillow==13.0.0" "simplejpeg==1.9.0" "numpy==2.2.6"
PYTHONPATH="$work/lib" python3 - <<'PYTHON'
import io, re
import numpy as np
import simplejpeg
from PIL import Image

rng = np.random.default_rng(0)
picture = Image.fromarray(rng.integers(0, 256, (30, 40, 3), dtype=np.uint8)).resize((320, 240), Image.BICUBIC)

def saved(**options):
    stream = io.BytesIO()
    picture.save(stream, "JPEG", quality=90, **options)
    return stream.getvalue()

def strict(data):
    try:
        simplejpeg.decode_jpeg(data, strict=True)
        return "no warning"
    except ValueError as error:
        return re.sub(r"\d+ extraneous", "N extraneous", str(error))

whole, progressive, end = saved(), saved(progressive=True), b"\xff\xd9"
half = whole[: len(whole) // 2] + end
Image.open(io.BytesIO(half)).load()  # raises nothing
assert strict(whole) == "no warning" and "premature end" in strict(half)
odd = [data[:20] + b"\0\0" + data[20:] for data in (whole, half)]
assert strict(odd[0]) == strict(odd[1]) == "Corrupt JPEG data: N extraneous bytes before marker 0xdb"
extraneous = "Corrupt JPEG data: N extraneous bytes before marker 0xd9"
assert strict(whole[:-2] + bytes(40) + end) == extraneous
said = []
for at in range(2000, len(whole) - 1000, 100):
    other = rng.integers(0, 255, 512, dtype=np.uint8).tobytes()
    said.append(strict(whole[:at] + other + whole[at + 512 :]))
assert said.count(extraneous) > 0.9 * len(said), said
last = progressive.rindex(b"\xff\xda")
assert strict(progressive[:last] + end) == "no warning"
print(f"half a JPEG passes Pillow; {said.count(extraneous)} of {len(said)} damaged ones: '{extraneous}'")
PYTHON
