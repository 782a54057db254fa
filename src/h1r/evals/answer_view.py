"""What `h1r generate` shows while it runs.

View       output that a program reads: a count of traces; whoever called prints them at the end
Answers    a terminal: each answer as soon as it ends
Tokens     a terminal, one answer, and an engine that tells its tokens: the answer as it is made
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from h1r.common.progress import Bar, progress
from h1r.common.prose import counted
from h1r.common.terminal import shown
from h1r.data.chat import open_thinking
from h1r.data.growing_text import growing, token_bytes
from h1r.engine.protocol import Engine, Prompt, TellsTokens
from h1r.records import Trace
from h1r.rollout.prompts import ProblemPrompt


class View:
    """Counts the traces that ended, on standard error. asked: traces in all."""

    def __init__(self, asked: int) -> None:
        self.asked = asked
        self._bar = Bar("Generate", asked, "trace")

    @contextmanager
    def showing(self, engine: Engine, tokenizer: Any, prompts: Sequence[Prompt]) -> Iterator[None]:
        """For the traces that `engine` makes of `prompts` in the block."""
        with progress("Generate", total=self.asked, unit="trace") as self._bar:
            yield

    def ended(self, trace: Trace) -> None:
        """A trace is whole."""
        self._bar.advance()


class Answers(View):
    """Prints each trace above the count when it ends."""

    def ended(self, trace: Trace) -> None:
        self._bar.print("\n".join([*heading(trace, self.asked), shown(trace.text)]))
        self._bar.print(footing(trace), sys.stderr)
        super().ended(trace)


class Tokens(Answers):
    """Prints the only trace as it grows. It is printed as `Answers` does where the engine does not tell its tokens, and
    in a conversation with an environment, whose earlier turns are no part of the answer."""

    @contextmanager
    def showing(self, engine: Engine, tokenizer: Any, prompts: Sequence[Prompt]) -> Iterator[None]:
        """`engine`: the one that draws the tokens, below all that asks it again."""
        prompt = prompts[0]
        talks = isinstance(prompt, ProblemPrompt) and prompt.environment is not None
        self._line = None if talks or not isinstance(engine, TellsTokens) else _Line(engine, tokenizer, prompt)
        if self._line is None:
            with super().showing(engine, tokenizer, prompts):
                yield
            return
        with self._line.waiting(), ExitStack() as watched:
            engine.watch(self._line.look)
            watched.callback(engine.watch, None)
            yield

    def ended(self, trace: Trace) -> None:
        if self._line is None:
            super().ended(trace)
            return
        self._line.end(trace.text)
        print(footing(trace), file=sys.stderr)


class _Line:
    """The text of the trace that runs, on standard output, as far as it is known."""

    def __init__(self, engine: TellsTokens, tokenizer: Any, prompt: Prompt) -> None:
        self._engine, self._opening = engine, open_thinking(tokenizer, prompt)
        self._growing, self._count, self._told = growing(tokenizer, token_bytes(tokenizer)), 0, ""
        self._spinner = ExitStack()

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Says that something is done until the first token comes."""
        from rich.console import Console

        with self._spinner:
            self._spinner.enter_context(Console(stderr=True).status("reading the question"))
            yield

    def look(self) -> None:
        """Prints what came since the last look. After a failure the trace is drawn again from the same seed, and its
        text goes on where it had come to."""
        if new := self._engine.written(0, 0, self._count):
            opening = "" if self._count else self._opening
            self._count += len(new)
            self._print(opening + self._growing.push(new))

    def end(self, text: str) -> None:
        """Prints the rest of the whole text, or all of it where what stands there is not its beginning."""
        if not text.startswith(self._told):
            print()
            self._told = ""
        self._print(text[len(self._told) :])
        self._spinner.close()
        print(flush=True)

    def _print(self, text: str) -> None:
        if text:
            self._spinner.close()
            self._told += text
            print(shown(text), end="", flush=True)


def heading(trace: Trace, asked: int) -> list[str]:
    """The line that says which trace it is; none of one that is alone."""
    return [f"--- question {trace.prompt_index + 1}, trace {trace.sample_index + 1} ---"] if asked > 1 else []


def footing(trace: Trace) -> str:
    """What it took."""
    return f"[{counted(trace.num_tokens, 'token')}, ended by {trace.finish_reason}]"
