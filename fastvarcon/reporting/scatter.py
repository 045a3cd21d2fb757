"""The section of `eval embed`: maps of images as SVG points, coloured by class; under a finger or a mouse the image.

Points and colours need no script. The script only finds the nearest point and shows its thumbnail.
"""

from __future__ import annotations

import json

from fastvarcon.reporting.page import shown
from fastvarcon.visible import visible

MARGIN = 20  # around the map, in its units
CLASSES_NAMED = 30
"""More classes than that have no legend: the image under the pointer is named anyway."""
STYLE = """
.map{position:relative;touch-action:pan-y;max-width:44rem}
.map svg{width:100%;height:auto;background:#fafafa;border:1px solid #eee}
.maps{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,26rem),1fr));gap:1rem}
.tip{display:none;position:absolute;pointer-events:none;background:#fff;border:1px solid #888;padding:4px;
font-size:.8rem;line-height:1.2;z-index:1;max-width:9rem}.tip div{width:64px;height:64px;image-rendering:pixelated}
.legend{display:flex;flex-wrap:wrap;gap:.2rem .8rem;font-size:.85rem}.legend i{display:inline-block;width:.7em;
height:.7em;border-radius:50%;margin-right:.3em}
"""
SCRIPT = """
document.querySelectorAll('.embed').forEach(function (section) {
  var data = JSON.parse(section.querySelector('script').textContent);
  section.querySelectorAll('.map').forEach(function (map) {
    var svg = map.querySelector('svg'), tip = map.querySelector('.tip');
    var places = data.places[map.dataset.map];
    function show(event) {
      var box = svg.getBoundingClientRect(), scale = data.extent / box.width;
      var x = (event.clientX - box.left) * scale - data.margin, y = (event.clientY - box.top) * scale - data.margin;
      var best = -1, least = Infinity;
      for (var i = 0; i < places.length; i++) {
        var distance = Math.pow(places[i][0] - x, 2) + Math.pow(places[i][1] - y, 2);
        if (distance < least) { least = distance; best = i; }
      }
      if (least > 2500) { tip.style.display = 'none'; return; }
      tip.lastChild.textContent = data.classes[data.labels[best]];
      if (data.image) {
        var picture = tip.firstChild, side = 64;
        picture.style.backgroundImage = data.image;
        picture.style.backgroundSize = data.columns * side + 'px';
        picture.style.backgroundPosition =
          -side * (best % data.columns) + 'px ' + -side * Math.floor(best / data.columns) + 'px';
      }
      tip.style.display = 'block';
      var left = (places[best][0] + data.margin) / scale, top = (places[best][1] + data.margin) / scale;
      tip.style.left = Math.max(0, Math.min(left + 8, box.width - tip.offsetWidth)) + 'px';
      tip.style.top = Math.max(0, Math.min(top + 8, box.height - tip.offsetHeight)) + 'px';
    }
    svg.addEventListener('pointermove', show);
    svg.addEventListener('pointerdown', show);
    svg.addEventListener('pointerleave', function () { tip.style.display = 'none'; });
  });
});
"""


def scatter(result: dict) -> str:
    classes, labels = result["classes"], result["labels"]
    maps = "".join(_map(number, one, labels, len(classes), result["grid"]) for number, one in enumerate(result["maps"]))
    image = result["thumbnails"]
    data = {
        "places": [one["places"] for one in result["maps"]],
        "labels": labels,
        "classes": list(map(visible, classes)),
        "columns": result["thumbnail_columns"],
        "extent": result["grid"] + 2 * MARGIN,
        "margin": MARGIN,
        "image": None if image is None else f"url(data:image/jpeg;base64,{image})",
    }
    content = json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")
    return (
        f'<style>{STYLE}</style><div class="embed"><p>Point at or tap a map to see the image.</p>{_legend(classes)}'
        f'<div class="maps">{maps}</div><script type="application/json">{content}</script></div>'
        f"<script>{SCRIPT}</script>"
    )


def _map(number: int, one: dict, labels: list[int], num_classes: int, grid: int) -> str:
    extent = grid + 2 * MARGIN
    points = "".join(
        f'<circle cx="{x + MARGIN}" cy="{y + MARGIN}" r="7" fill="{_colour(label, num_classes)}"/>'
        for (x, y), label in zip(one["places"], labels, strict=True)
    )
    title = shown(f"{one['method']}, {one['checkpoint']}")
    return (
        f'<figure><figcaption>{title}</figcaption><div class="map" data-map="{number}">'
        f'<svg viewBox="0 0 {extent} {extent}" role="img" aria-label="{title}" fill-opacity="0.75">{points}</svg>'
        '<div class="tip"><div></div><span></span></div></div></figure>'
    )


def _legend(classes: list[str]) -> str:
    if len(classes) > CLASSES_NAMED:
        return f"<p>{len(classes):,} classes, neighbours in the list alike in colour.</p>"
    chips = "".join(
        f'<span><i style="background:{_colour(label, len(classes))}"></i>{shown(name)}</span>'
        for label, name in enumerate(classes)
    )
    return f'<div class="legend">{chips}</div>'


def _colour(label: int, num_classes: int) -> str:
    hue = 360 * label // max(num_classes, 1)
    return f"hsl({hue},70%,{38 if label % 2 else 52}%)"
