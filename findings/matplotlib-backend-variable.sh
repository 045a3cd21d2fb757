#!/usr/bin/env bash
# `import matplotlib` fails for a backend that is never used, and cannot be tried again. matplotlib 3.11.2, Python 3.11, 2026-11
#
# Notebooks set MPLBACKEND=module://matplotlib_inline.backend_inline, and every command that is started from a cell with `!` inherits
# it, also one that is installed in another environment, without matplotlib_inline.
# Expected: a backend matters when pyplot is imported or a window is opened; a program that makes `Figure()` and saves it as SVG or PNG
# needs none.
# Seen: `import matplotlib` itself raises ValueError, as MPLBACKEND is validated where rcParams are made. A second import in the same
# process, with MPLBACKEND put right, raises AttributeError, as half of the package is left in sys.modules.
# Ours: the variable is set aside around the first import (fastvarcon/reporting/drawing.py).
# Exits with 1 when the behaviour changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --target "$folder" matplotlib==3.11.2
PYTHONPATH="$folder" MPLBACKEND=module://matplotlib_inline.backend_inline python3 - <<'P'
import os
import sys

seen = []
for value in (os.environ["MPLBACKEND"], "agg"):
    os.environ["MPLBACKEND"] = value
    try:
        import matplotlib
        from matplotlib.figure import Figure

        seen.append("imported")
    except Exception as error:
        seen.append(type(error).__name__)
        print(f"MPLBACKEND={value}: {type(error).__name__}: {str(error)[:100]}")
sys.exit(0 if seen == ["ValueError", "AttributeError"] else f"the behaviour has changed: {seen}")
P
