"""`fastvarcon completion`: a script that completes this command in a shell."""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal

from tyro.conf import Positional, arg
from tyro.extras import SubcommandApp

BASH_FILES = """
_fastvarcon() {
  _tyro_fastvarcon
  [[ -n "${COMPREPLY[*]}" ]] || COMPREPLY=()
}
complete -o default -F _fastvarcon fastvarcon
"""
"""Completes file names if no word of ours fits."""


def completion(
    shell: Annotated[Positional[Literal["bash", "zsh", "fish"]], arg(metavar="bash|zsh|fish")],
) -> None:
    """Print a script that completes this command in bash, zsh or fish.

    bash: fastvarcon completion bash > ~/.local/share/bash-completion/completions/fastvarcon

    zsh:  fastvarcon completion zsh > ~/.zfunc/_fastvarcon, with `fpath+=~/.zfunc` before `compinit` in ~/.zshrc

    fish: fastvarcon completion fish > ~/.config/fish/completions/fastvarcon.fish

    Then open a new shell. The script is static and does not start fastvarcon. Regenerate it after an update.
    """
    print(completion_script(shell))


def completion_script(shell: str) -> str:
    """A script that completes commands, evaluations and benchmarks with their flags and choices, else file names."""
    from fastvarcon.cli import COMMANDS
    from fastvarcon.commands.bench import BENCHMARKS
    from fastvarcon.commands.evaluate import EVALUATE

    groups: dict[str, Mapping[str, Callable[..., Any]]] = {"eval": EVALUATE, "bench": BENCHMARKS}
    app = _app({name: command for name, command in COMMANDS.items() if name not in groups})
    for name, commands in groups.items():
        app.command(_app(commands), name=name)
    script = io.StringIO()
    with contextlib.redirect_stdout(script), contextlib.suppress(SystemExit):
        app.cli(prog="fastvarcon", args=["--tyro-write-completion", shell, "-"])
    text = re.sub(r"(?m)^COMPLETION_SPEC = .*$", _on_one_line, script.getvalue())
    if shell == "bash":
        return text + BASH_FILES
    if shell == "zsh":
        return text.replace("completion_array\n}", "completion_array\n  _files\n}")
    return text.replace("complete --no-files", "complete")


def _on_one_line(spec: re.Match[str]) -> str:
    """Join the lines of help texts, because the scripts would read each line as another word."""
    return re.sub(r"\\+n", " ", spec[0])


def _app(commands: Mapping[str, Callable[..., Any]]) -> SubcommandApp:
    app = SubcommandApp()
    for name, command in commands.items():
        app.command(name=name)(command)
    return app
