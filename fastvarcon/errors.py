"""The one exception for mistakes that the person at the keyboard can fix."""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import sys
from collections.abc import Callable
from typing import Any

from fastvarcon.visible import visible


class UserError(ValueError):
    """A wrong path, flag or file. The message is one line that names the culprit and the remedy.

    Commands and recipes print it as `error: ...` and exit with code 2, without a traceback.
    """


def reason(error: BaseException) -> str:
    """What a message says of another program's error: on one line, and never nothing."""
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(str(text).split())


def _leave(number: int, _frame: object) -> None:
    """Turn a request to terminate into an exception, so that half-written files are removed on the way out."""
    raise SystemExit(128 + number)


def _refused(message: str) -> SystemExit:
    """Say it, on one line whatever names are in it, after all that was printed before."""
    rank = os.environ.get("RANK", "0")
    where = "" if rank == "0" else f" on rank {rank}"
    with contextlib.suppress(OSError, ValueError):  # closed, or nobody reads it
        sys.stdout.flush()
    print(f"error{where}: {visible(message)}", file=sys.stderr, flush=True)
    return SystemExit(2)


def exits_cleanly(main: Callable) -> Callable:
    """Decorate a program's entry function: UserError becomes one line and exit code 2, Ctrl-C exit code 130."""

    @functools.wraps(main)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        from fastvarcon import terminal  # which raises UserError

        signal.signal(signal.SIGTERM, _leave)
        terminal.prepare_terminal()
        try:
            with terminal.delivered_output():
                return main(*args, **kwargs)
        except UserError as error:
            raise _refused(str(error)) from None
        except BrokenPipeError:  # the reader of our output, `head` say, has gone
            raise SystemExit(141) from None
        except OSError as error:  # of a file that nobody asked about in time: a name that is too long, a lost disk
            if error.filename is None:
                raise
            raise _refused(f"{error.filename}: {reason(error)}: give another place, or make it accessible") from None
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr, flush=True)
            raise SystemExit(130) from None
        finally:
            terminal.drop_output()

    return wrapped
