"""The command line: help, dispatch, and messages of errors. A command is a module of `coalign.cli.commands`."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from coalign.cli.commands import help_lines, run_command
from coalign.cli.failures import DEBUG, report_error
from coalign.errors import visible

TITLE = "coalign: train, load, compare, search with and look into multimodal aligned representations."
FOOT = """
`coalign COMMAND --help` says more. Exit status: 0 done, 1 a check failed, 2 something given is wrong.
Anywhere: --outside-paths follows paths in data, and links, that lead out of its folder; --debug shows the traceback of
an error. --version says which coalign this is."""
_ANYWHERE = ("--debug", "--outside-paths")


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs a command and exits: 0 done, 1 a check failed, 2 bad input (one line says what and how to mend it)."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    token = DEBUG.set("--debug" in words)
    os.environ.setdefault("LANCEDB_LOG", "error")  # else LanceDB warns of every index that is new
    if sys.stdout.isatty():
        sys.stdout = _Terminal(sys.stdout)  # pyright: ignore[reportAttributeAccessIssue]
    try:
        with _outside_paths() if "--outside-paths" in words else nullcontext():
            sys.exit(_dispatch([word for word in words if word not in _ANYWHERE]))
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        sys.stderr.close()
        sys.exit(0)
    except KeyboardInterrupt:
        print("coalign: interrupted", file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        report_error(error)
        sys.exit(2)
    finally:
        DEBUG.reset(token)


class _Terminal:
    """Standard output where it is a terminal: captions, file names and the like are shown, and not obeyed by it."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        self._stream.write(visible(text))
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _outside_paths() -> AbstractContextManager[None]:
    from coalign.files import outside_paths  # takes time, and is of no use to most

    return outside_paths()


def _dispatch(words: list[str]) -> int:
    name, rest = (words[0], words[1:]) if words else ("--help", [])
    if name in ("-h", "--help"):
        print("\n".join([TITLE, *help_lines(), FOOT]))
        return 0
    if name == "--version":
        from coalign import __version__

        print(f"coalign {__version__}")
        return 0
    return run_command(name, rest)
