"""How every chart is drawn: in one style, without a display, and with names as they are written.

All of the package gets matplotlib from here. Figures are made without pyplot, so that no display and no backend takes
part; but matplotlib refuses to be imported where MPLBACKEND names a module that is not installed, as in a command that
a notebook of another environment starts.
"""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

try:
    import matplotlib
except ValueError:
    os.environ["MPLBACKEND"] = "agg"
    import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fastvarcon.errors import UserError
from fastvarcon.visible import visible
from fastvarcon.whole_file import ANOTHER, whole_file

__all__ = ["BLUE", "GREEN", "GREY", "ORANGE", "Axes", "Figure", "check_format", "drawing", "fonts", "label", "save", "svg"]
BLUE, ORANGE, GREEN, GREY = "#1f5fbf", "#d9730d", "#2a8a4a", "#777777"
STYLE: dict[str, Any] = {
    "font.size": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "lines.linewidth": 1.8,
    "svg.hashsalt": "fastvarcon",
}
NOT_STYLE = ("backend", "backend_fallback", "interactive", "toolbar")
LONGEST = 60
"""Letters of a name that a chart has room for."""
FORMATS = (".png", ".svg", ".pdf")


@contextlib.contextmanager
def drawing(**more: object) -> Iterator[None]:
    """Charts made and saved within have this style, whatever the user's matplotlibrc says."""
    defaults = {key: matplotlib.rcParamsDefault[key] for key in matplotlib.rcParamsDefault if key not in NOT_STYLE}
    with matplotlib.rc_context({**defaults, **STYLE, **more}):
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
    figure.savefig(stream, format="svg", metadata={"Date": None})
    return stream.getvalue()


def check_format(path: Path, flag: str) -> None:
    """Raise UserError unless the suffix of a chart to be saved is one that can be drawn."""
    if path.suffix.lower() not in FORMATS:
        raise UserError(f"{flag} {path}: the chart's name must end in {' or '.join(FORMATS)}")


def save(figure: Figure, path: Path, dpi: int, remedy: str = ANOTHER) -> None:
    """Write the file, as its suffix says, whole or not at all. Raises NotWritten with the remedy."""
    with whole_file(path, remedy) as aside:
        figure.savefig(aside, format=path.suffix.lower().removeprefix("."), dpi=dpi)
