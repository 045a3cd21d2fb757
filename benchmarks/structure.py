"""How the code is cut: files, imports, who takes the whole configuration, who spells a run's file names.

    python benchmarks/structure.py [--root CHECKOUT] [--out structure.csv]

Counts the product: fastvarcon, kernels, data_prep, recipes and benchmarks, without tests, docs and setup.py. Imports
are read from the source, those inside functions too. A circle is a set of files of which each imports, directly or
not, all others.
"""

from __future__ import annotations

import argparse
import ast
import csv
import datetime
import statistics
import subprocess
from collections import Counter
from pathlib import Path

HERE = Path(__file__).parent
FOLDERS = ("fastvarcon", "kernels", "data_prep", "recipes", "benchmarks")
LINKED = ("kernels", "data_prep", "recipes")  # imported as fastvarcon.NAME
RUN_FILES = ("config.json", "metrics.jsonl", "summary.json", "encoder.safetensors")
COLUMNS = (
    "date", "commit", "files", "lines", "median_lines", "one_importer", "circles", "takes_config_functions",
    "takes_config_files", "spells_run_files", "places_of_label_smoothing", "command",
)  # fmt: skip


def product(root: Path) -> dict[str, Path]:
    """Module name -> file, as git tracks them."""
    listed = subprocess.run(["git", "ls-files", "*.py"], cwd=root, capture_output=True, text=True, check=True).stdout
    files = {}
    for name in listed.splitlines():
        path = Path(name)
        if path.parts[0] in FOLDERS and not (root / path).is_symlink():
            parts = (("fastvarcon", *path.parts) if path.parts[0] in LINKED else path.parts)[:-1]
            module = ".".join(parts if path.name == "__init__.py" else (*parts, path.stem))
            files[module] = root / path
    return files


def imports(module: str, path: Path, modules: set[str]) -> set[str]:
    """Modules of the product that `path` imports."""
    found = set()
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                base = ".".join([*package.split(".")[: len(package.split(".")) - node.level + 1], base]).rstrip(".")
            names = {f"{base}.{alias.name}" for alias in node.names}
            found |= (names & modules) or {base}
            found |= {f"{package}.{base}"} & modules  # a script beside this one
    return (found & modules) - {module}


def circles(graph: dict[str, set[str]]) -> int:
    """Strongly connected components of more than one file."""

    def reached(start: str) -> frozenset[str]:
        seen, ahead = set(), [start]
        while ahead:
            for after in graph[ahead.pop()] - seen:
                seen.add(after)
                ahead.append(after)
        return frozenset(seen)

    reach = {module: reached(module) for module in graph}
    found = {frozenset(b for b in reach[a] if a in reach[b]) for a in graph if a in reach[a]}
    return len(found)


def takes_config(path: Path) -> int:
    """Functions with a parameter that is annotated as the whole Config."""
    count = 0
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            every = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            count += any(a.annotation is not None and ast.unparse(a.annotation) == "Config" for a in every)
    return count


def figures(root: Path) -> dict[str, object]:
    files = product(root)
    text = {module: path.read_text(encoding="utf-8") for module, path in files.items()}
    lines = [content.count("\n") for content in text.values()]
    graph = {module: imports(module, path, set(files)) for module, path in files.items()}
    importers = Counter(target for targets in graph.values() for target in targets)
    taking = [takes_config(path) for path in files.values()]
    return {
        "files": len(files),
        "lines": sum(lines),
        "median_lines": round(statistics.median(lines)),
        "one_importer": sum(count == 1 for count in importers.values()),
        "circles": circles(graph),
        "takes_config_functions": sum(taking),
        "takes_config_files": sum(map(bool, taking)),
        "spells_run_files": sum(any(f'"{name}"' in content for name in RUN_FILES) for content in text.values()),
        "places_of_label_smoothing": sum(content.count("label_smoothing") for content in text.values()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, default=HERE.parent)
    parser.add_argument("--out", type=Path, default=HERE / "results" / "structure.csv")
    args = parser.parse_args()
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=args.root, capture_output=True, text=True, check=True
    ).stdout.strip()
    row = {"date": datetime.date.today().isoformat(), "commit": commit, **figures(args.root)}
    row["command"] = "python benchmarks/structure.py"
    new = not args.out.exists()
    with open(args.out, "a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS)
        if new:
            writer.writeheader()
        writer.writerow(row)
    for name, value in row.items():
        print(f"{name:28} {value}")


if __name__ == "__main__":
    main()
