"""How every chart is drawn: in one style, without a display, and with names as they are written.

All of the package gets matplotlib from here. Figures are made without pyplot, so that no display and no backend takes
part; but matplotlib refuses to be imported where MPLBACKEND names a module that is not installed, as in a command that
a notebook of another environment starts.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_asked = None if "matplotlib" in sys.modules else os.environ.pop("MPLBACKEND", None)
import matplotlib  # noqa: E402 (not before the line above)
from matplotlib.axes import Axes  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402

if _asked is not None:  # what matplotlib would have done, but for the error
    os.environ["MPLBACKEND"] = _asked
    with contextlib.suppress(ValueError):
        matplotlib.rcParams["backend"] = _asked

from fastvarcon.visible import visible  # noqa: E402
from fastvarcon.whole_file import ANOTHER, whole_file  # noqa: E402

__all__ = ["BLUE", "GREEN", "GREY", "ORANGE", "Axes", "Figure", "drawing", "fonts", "label", "save", "svg"]
BLUE, ORANGE, GREEN, GREY = "#1f5fbf", "#d9730d", "#2a8a4a", "#777777"
STYLE: dict[str, Any] = {
    "font.size": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "lines.linewidth": 1.8,
    "svg.fonttype": "none",  # text, not shapes: the reader's fonts have letters that matplotlib's lacks
    "svg.hashsalt": "fastvarcon",
}
NOT_STYLE = ("backend", "backend_fallback", "interactive", "toolbar")
LONGEST = 60
"""Letters of a name that a chart has room for."""


@contextlib.contextmanager
def drawing(**more: object) -> Iterator[None]:
    """Charts made and saved within have this style, whatever the user's matplotlibrc says."""
    default: Any = matplotlib.rcParamsDefault
    settings: Any = {key: default[key] for key in default if key not in NOT_STYLE} | STYLE | more
    with matplotlib.rc_context(settings):
        yield


def label(name: str, longest: int = LONGEST) -> str:
    """Text as a chart is to show it, letter by letter, on one line, not too long.

    matplotlib takes what stands between two `$` for a formula, and a legend leaves out what begins with "_".
    """
    text = visible(name)
    text = text if len(text) <= longest else text[: longest - 3] + "..."
    return (" " * text.startswith("_") + text).replace("$", r"\$")


def fonts() -> Path:
    """The folder of the fonts that matplotlib brings along."""
    return Path(matplotlib.get_data_path()) / "fonts" / "ttf"


def svg(figure: Figure) -> str:
    """To be called within `drawing`, as the making of the figure."""
    stream = io.StringIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")  # where it measures the text
        figure.savefig(stream, format="svg", metadata={"Date": None})
    return stream.getvalue()


def save(figure: Figure, path: Path, dpi: int, remedy: str = ANOTHER) -> None:
    """Write the file, as its suffix says, whole or not at all. Raises NotWritten with the remedy."""
    stream = io.BytesIO()
    with matplotlib.rc_context({"savefig.format": path.suffix.lower().removeprefix(".")}):
        figure.savefig(stream, dpi=dpi)
    with whole_file(path, remedy) as aside:
        aside.write_bytes(stream.getvalue())
