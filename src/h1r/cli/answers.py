"""Commands that answer questions: generate, solve."""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from h1r.cli.common import (
    AsJson,
    Checkpoint,
    Columns,
    Set,
    StoppedError,
    check_checkpoint,
    check_question,
    checkpoint_of,
    finite,
    parse_columns,
    print_json,
    stopping,
)
from h1r.common.hub import SHIPPED
from h1r.common.progress import quiet
from h1r.common.prose import counted
from h1r.common.terminal import shown
from h1r.errors import UserError

if TYPE_CHECKING:
    from h1r.evals.solving import Solved
    from h1r.records import Trace


def generate(
    checkpoint: Checkpoint,
    prompt: Annotated[
        list[str],
        typer.Option(
            "--prompt", "-p", metavar="TEXT", help="A question; - reads one from standard input. Repeat for more."
        ),
    ],
    n: Annotated[int, typer.Option("-n", min=1, metavar="N", help="Traces per question.")] = 1,
    temperature: Annotated[
        float | None,
        typer.Option(
            callback=finite,
            min=0,
            metavar="T",
            help="Sampling temperature; 0 is greedy. Default: the checkpoint's, else 0.6.",
        ),
    ] = None,
    top_p: Annotated[
        float | None,
        typer.Option(
            callback=finite,
            min=0.001,
            max=1,
            metavar="P",
            help="Probability mass of the likeliest tokens kept. Default: the checkpoint's, else 1.",
        ),
    ] = None,
    max_tokens: Annotated[
        int | None,
        typer.Option(min=1, metavar="TOKENS", help="Longest answer, in tokens. Default: the checkpoint's, else 512."),
    ] = None,
    set_: Set = None,
    seed: Annotated[
        int, typer.Option(metavar="N", help="Seed of sampling: the same number gives the same traces.")
    ] = 0,
    as_json: AsJson = False,
) -> None:
    """Answer questions on the terminal. The text appears there as it is made; elsewhere it is printed at the end."""
    quiet(as_json)
    check_checkpoint(checkpoint)
    prompt = [sys.stdin.read().strip() if one == "-" else one for one in prompt]
    for one in prompt:
        check_question(one)
    from h1r.config.text import parse_override
    from h1r.engine.protocol import SamplingParams
    from h1r.evals.answer_view import Answers, Tokens, View
    from h1r.evals.answers import generate as answer
    from h1r.evals.answers import in_order, sampling_of

    given = {"temperature": temperature, "top_p": top_p, "max_tokens": max_tokens}
    wanted = {key: value for key, value in given.items() if value is not None}
    defaults = {"temperature": 0.6, "top_p": 1.0, "max_tokens": 512, **sampling_of(checkpoint)}
    params = SamplingParams(n=n, seed=seed, **{**defaults, **wanted})
    asked = len(prompt) * n
    # Whoever reads the answers on a terminal sees them come; a program gets them in order.
    shows = not as_json and sys.stdout.isatty()
    view = View(asked) if not shows else Tokens(asked) if asked == 1 else Answers(asked)
    finished: list[Trace] = []
    try:
        traces = answer(checkpoint, prompt, params, dict(map(parse_override, set_ or [])), finished, view)
    except (KeyboardInterrupt, UserError) as end:
        if finished and not shows:
            _print_traces(in_order(finished), asked, as_json)
        if isinstance(end, UserError):
            raise
        raise StoppedError(f"{len(finished)} of {asked} traces had ended; run it again for all") from None
    if not shows:
        _print_traces(traces, asked, as_json)
    failed = [trace.error or "no reason" for trace in traces if trace.finish_reason == "error"]
    if failed:
        raise UserError(
            f"{len(failed)} of {len(traces)} traces failed, the first: {failed[0]}; mend that and run it again"
        )


def _print_traces(traces: Sequence[Trace], asked: int, as_json: bool) -> None:
    """asked: traces in all."""
    from h1r.evals.answer_view import footing, heading

    if as_json:
        print_json([dataclasses.asdict(trace) for trace in traces])
        return
    for trace in traces:
        print("\n".join([*heading(trace, asked), shown(trace.text)]))
        print(footing(trace), file=sys.stderr)


def _asked(words: Sequence[str]) -> tuple[str, str]:
    """Whom to ask, and what."""
    if len(words) > 2:
        raise UserError(f"{counted(len(words), 'word')} were given; put the question between quotation marks")
    if len(words) == 1 and words[0] and (checkpoint_of(words[0]) or Path(words[0]).is_dir()):
        raise UserError(f"{words[0]} is a checkpoint; ask a question too, as in h1r solve {words[0]} '2 + 3 = ?'")
    return (words[0], words[1]) if len(words) == 2 else (SHIPPED, words[0])


def solve(
    words: Annotated[
        list[str],
        typer.Argument(
            metavar="[CHECKPOINT] QUESTION|FILE",
            help="Whom to ask: a checkpoint directory, a hub id or a run directory; without one, the model that comes "
            "with the package. And a question, or a file of them: .jsonl, .json, .csv or .parquet, with answers "
            "or without; - is a question on standard input.",
        ),
    ],
    columns: Columns = None,
    recipe: Annotated[
        str | None,
        typer.Option(metavar="RECIPE", help="Recipe whose [scaling] and [engine] apply. Default: that of the run."),
    ] = None,
    method: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="How many traces become one answer: majority, adaptive_consistency, esc and others "
            "(`h1r docs scaling-methods`). Default: scaling.method, which is deepconf.",
        ),
    ] = None,
    set_: Set = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="FILE.jsonl", help="Append a line per solved problem, and go on from there."),
    ] = None,
    seed: Annotated[
        int, typer.Option(metavar="N", help="Seed of sampling: the same number gives the same traces.")
    ] = 0,
    as_json: AsJson = False,
) -> None:
    """Answer with DeepConf, by the vote of many traces. Doubtful traces are stopped early; the rest vote."""
    quiet(as_json)
    checkpoint, question = _asked(words)
    if question == "-":
        question = sys.stdin.read().strip()
    if not os.path.isfile(question):
        check_question(question)
    from h1r.evals.questions import questions_of

    problems = questions_of(question, parse_columns(columns))
    check_checkpoint(checkpoint)
    from h1r.config import find_recipe, load_recipe
    from h1r.config.text import parse_override
    from h1r.evals.answers import recipe_of
    from h1r.evals.solving import solve as answer
    from h1r.evals.solving import summary

    overrides = dict(map(parse_override, set_ or [])) | ({"scaling.method": method} if method else {})
    resolved = load_recipe(find_recipe(recipe), overrides) if recipe else recipe_of(checkpoint, overrides)
    go_on = "run it again" if out is None else f"the same command goes on from {out}"
    # As in `generate`: the results of a file come one by one on a terminal, and a question's takes the whole screen.
    shows = not as_json and sys.stdout.isatty()
    with stopping(go_on):
        solutions = answer(
            checkpoint,
            problems,
            resolved,
            seed,
            out,
            system_prompt=overrides.get("chat.system_prompt"),
            say=_told if shows and os.path.isfile(question) else None,
        )
    several = len(solutions) > 1
    if as_json:
        print_json([dataclasses.asdict(solution) for solution in solutions])
    elif not (shows and os.path.isfile(question)):
        for solution in solutions:
            print(_told(solution) if several else shown(solution.lines()))
    if several and not as_json:
        print(summary(solutions))


def _told(solution: Solved) -> str:
    """Below the problem's own id; where it has none, below its question."""
    from h1r.records import name_of

    return f"--- {shown(name_of(solution.problem_id, solution.question))} ---\n{shown(solution.lines())}"
