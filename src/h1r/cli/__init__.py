"""The command line: parse, call one room, print. Nothing is decided here that a room could decide.

A user's mistake is one sentence on standard error and exit code 2; Ctrl-C is one sentence that says how to go on and
exit code 130. Rooms are imported inside the commands, so that `h1r --help` needs no torch.
"""

from __future__ import annotations

import errno
import re
import sys
from collections.abc import Callable, Sequence
from typing import Annotated

import typer

from h1r.cli.answers import generate, solve
from h1r.cli.chat import chat
from h1r.cli.common import StoppedError
from h1r.cli.evaluate import eval_
from h1r.cli.help import Command
from h1r.cli.inspect import parity, report, watch
from h1r.cli.pages import docs
from h1r.cli.serve import serve
from h1r.cli.share import export, push
from h1r.cli.stages import ablate, curate, demo, rl, sft
from h1r.cli.start import init, ls
from h1r.cli.verify import verify
from h1r.common.terminal import shown
from h1r.errors import UserError

app = typer.Typer(
    help="Open-H1R: curate data, train hybrid reasoning models by SFT and RL, and scale them at test time.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
COMMANDS: dict[str, Callable[..., None]] = {
    "demo": demo,
    "init": init,
    "curate": curate,
    "sft": sft,
    "rl": rl,
    "ablate": ablate,
    "eval": eval_,
    "generate": generate,
    "solve": solve,
    "chat": chat,
    "serve": serve,
    "ls": ls,
    "export": export,
    "push": push,
    "report": report,
    "watch": watch,
    "parity": parity,
    "verify": verify,
    "docs": docs,
}
for name, command in COMMANDS.items():
    app.command(name, cls=Command)(command)


def _version(wanted: bool) -> None:
    if wanted:
        import h1r

        print(f"h1r {h1r.__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and stop.")
    ] = False,
) -> None:
    """What the program takes before a command. Typer would show this text in place of the app's, which has its own."""


_NOT_OURS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM)
"""What no program can mend: a full or read-only disk, a directory of somebody else's."""

_PARTIAL = re.compile(r"(?<![^/])\.([^/]+?)(\.[0-9a-f]{32})?\.partial: $")
"""The name of what is not whole yet (`h1r.common.files`); people know what it was to be."""


def main(argv: Sequence[str] | None = None) -> int:
    """The `h1r` program; returns its exit code or raises `SystemExit` with it."""
    for stream in (sys.stdout, sys.stderr):
        if getattr(stream, "errors", None) == "strict" and hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # a locale without the character, a path that is not UTF-8
    try:
        app(args=None if argv is None else list(argv), prog_name="h1r")
    except UserError as error:
        print(f"h1r: {shown(str(error))}", file=sys.stderr)
        return error.exit_code
    except OSError as error:
        if error.errno not in _NOT_OURS:
            raise
        place = _PARTIAL.sub(r"\1: ", f"{error.filename}: ") if error.filename else ""
        print(f"h1r: {place}{error.strerror}; make room or give other paths, then run it again", file=sys.stderr)
        return 2
    except StoppedError as stop:
        print(f"\nh1r: stopped; {stop}", file=sys.stderr)
        return 130
    return 0
