"""The command that holds a conversation on the terminal: chat."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from h1r.cli.common import Set, check_checkpoint
from h1r.common.hub import SHIPPED
from h1r.common.prose import counted, figures
from h1r.common.terminal import shown
from h1r.errors import UserError

if TYPE_CHECKING:
    from h1r.serve.talk import Conversation

HELP = """\
/deepconf N    answer with N traces that vote; /deepconf off for one alone
/new           forget the conversation
/turns         ask with the turns before, or each question alone
/help          this
/exit          leave, as Ctrl-D does
Ctrl-C ends an answer, and the conversation where none is being written. The arrow keys bring back what was asked."""


def chat(
    what: Annotated[
        str,
        typer.Argument(
            metavar="[CHECKPOINT|RUN|URL]",
            help="A checkpoint directory, run directory or hub id; or the address of a server, with /v1. Default: the "
            "model that comes with the package.",
        ),
    ] = SHIPPED,
    deepconf: Annotated[
        int, typer.Option(min=0, metavar="N", help="Traces that vote on each answer. 0: one trace alone.")
    ] = 0,
    model: Annotated[
        str | None, typer.Option(metavar="NAME", help="Which of a server's models. Default: the first.")
    ] = None,
    seed: Annotated[
        int | None, typer.Option(metavar="N", help="Seed of sampling, for every answer. Default: drawn.")
    ] = None,
    set_: Set = None,
) -> None:
    """Chat on the terminal. What the model thinks is shown as it is generated."""
    is_server = what.startswith(("http://", "https://"))
    if model is not None and not is_server:
        raise UserError("--model is for the address of a server; a checkpoint is one model")
    if not is_server:
        check_checkpoint(what)
    from h1r.config.text import parse_override
    from h1r.serve.talk import Conversation, open_talker

    with open_talker(what, model, dict(map(parse_override, set_ or []))) as talker:
        conversation = Conversation(talker, deepconf, {} if seed is None else {"seed": seed}, alone=talker.alone)
        if why := conversation.refusal(deepconf):
            raise UserError(f"--deepconf {deepconf}: {why}")
        single = "; it has learnt single questions: each is asked alone (/turns changes that)" if talker.alone else ""
        _note(f"{shown(talker.model)}{single}; /help says what else can be typed")
        for line in _lines():
            if line.startswith("/"):
                if not _command(conversation, line):
                    return
            elif line:
                _answer(conversation, line)


def _lines() -> Iterator[str]:
    """What is typed, or the lines of a file; ends at Ctrl-D, and at Ctrl-C."""
    prompt = ""
    if sys.stdin.isatty():
        import readline  # noqa: F401 - gives `input` its history and editing

        prompt = "> "
    while True:
        try:
            yield input(prompt).strip()
        except (EOFError, KeyboardInterrupt):
            return
        except UnicodeDecodeError:
            _note("this is not UTF-8; give it as text")


def _command(conversation: Conversation, line: str) -> bool:
    """Does what a line that begins with / says; whether the conversation goes on."""
    name, _, rest = line.partition(" ")
    rest = rest.strip()
    if name in ("/exit", "/quit"):
        return False
    if name == "/new":
        conversation.messages = []
        _note("the conversation is forgotten")
    elif name == "/turns" and not rest:
        conversation.alone = not conversation.alone
        _note("each question is asked alone" if conversation.alone else "questions are asked with the turns before")
    elif name == "/deepconf" and (rest == "off" or (rest.isascii() and rest.isdigit())):
        wanted = 0 if rest == "off" else int(rest[:9])
        if why := conversation.refusal(wanted):
            _note(why)
            return True
        conversation.budget = wanted
        _note(f"{counted(conversation.budget, 'trace')} to an answer" if conversation.budget else "one trace alone")
    elif name == "/deepconf":
        _note("write /deepconf N, as in /deepconf 32, or /deepconf off")
    else:
        _note(HELP if name == "/help" else f"there is no {shown(name)}\n{HELP}")
    return True


def _answer(conversation: Conversation, question: str) -> None:
    """Prints the reply as it comes. One that fails, or is stopped, leaves the conversation as it was."""
    from rich.console import Console

    out, thinking, said = Console(highlight=False, soft_wrap=True), None, False
    try:
        with Console(stderr=True).status("...") as status:
            for piece in conversation.ask(question):
                if isinstance(piece, dict):
                    status.update(_progress(piece))
                    continue
                status.stop()
                if thinking and not piece.thinking:
                    out.out("\n")
                thinking, said = piece.thinking, True
                out.out(shown(piece.text), style="dim" if thinking else None, highlight=False, end="")
                out.file.flush()
    except UserError as error:
        _note(f"{shown(str(error))}{'; /new begins another conversation' if conversation.messages else ''}")
        return
    except KeyboardInterrupt:
        _note("\nstopped; this turn is left out of the conversation")
        return
    if said:
        out.out("")
    _note(_summary(conversation.usage))


def _progress(event: dict[str, Any]) -> str:
    from rich.markup import escape

    leading = next(iter(event.get("votes") or ()), None)
    tokens = f"{counted(event.get('tokens', 0), 'token')}"
    return escape(tokens if leading is None else f"{tokens}, leading: {shown(str(leading['answer']))}")


def _summary(usage: dict[str, Any]) -> str:
    """What the reply took."""
    tokens = counted(usage.get("completion_tokens", 0), "token")
    found = usage.get("deepconf")
    if not isinstance(found, dict):
        return f"[{tokens}]"
    leading = (found.get("votes") or ())[:3]
    votes = ", ".join(f"{shown(str(one['answer']))}: {figures(one['weight'])}" for one in leading)
    return f"[{tokens} in {counted(found['traces'], 'trace')}; votes {votes or 'none'}]"


def _note(text: str) -> None:
    print(text, file=sys.stderr)
