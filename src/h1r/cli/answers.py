"""Commands that answer questions: generate, solve."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Annotated

import typer

from h1r.cli.common import AsJson, Checkpoint, Set, check_checkpoint, check_question, print_json, recipe_file, stopping
from h1r.common.progress import quiet
from h1r.common.terminal import shown
from h1r.errors import UserError


def generate(
    checkpoint: Checkpoint,
    prompt: Annotated[list[str], typer.Option("--prompt", "-p", help="A question; - reads it. Repeat for more.")],
    n: Annotated[int, typer.Option("-n", min=1, help="Traces per question.")] = 1,
    temperature: Annotated[float, typer.Option(min=0, help="0 is greedy.")] = 0.6,
    top_p: Annotated[float, typer.Option(min=0.001, max=1, help="Nucleus: mass of the likeliest tokens kept.")] = 1.0,
    max_tokens: Annotated[int, typer.Option(min=1, help="Longest answer, tokens.")] = 512,
    set_: Set = None,
    seed: Annotated[int, typer.Option(help="Of sampling.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Answer questions on the terminal."""
    quiet(as_json)
    check_checkpoint(checkpoint)
    prompt = [sys.stdin.read().strip() if one == "-" else one for one in prompt]
    for one in prompt:
        check_question(one)
    from h1r.config.text import parse_override
    from h1r.engine.protocol import SamplingParams
    from h1r.evals.answers import generate as answer

    params = SamplingParams(n=n, temperature=temperature, top_p=top_p, max_tokens=max_tokens, seed=seed)
    with stopping("run it again"):
        traces = answer(checkpoint, prompt, params, dict(map(parse_override, set_ or [])))
    if as_json:
        print_json([dataclasses.asdict(trace) for trace in traces])
    for trace in () if as_json else traces:
        if len(traces) > 1:
            print(f"--- question {trace.prompt_index + 1}, trace {trace.sample_index + 1} ---")
        print(shown(trace.text))
        print(f"[{trace.num_tokens} tokens, ended by {trace.finish_reason}]", file=sys.stderr)
    failed = [trace.error or "no reason" for trace in traces if trace.finish_reason == "error"]
    if failed:
        raise UserError(
            f"{len(failed)} of {len(traces)} traces failed, the first: {failed[0]}; mend that and run it again"
        )


def solve(
    checkpoint: Checkpoint,
    question: Annotated[str, typer.Argument(metavar="QUESTION|FILE.jsonl", help="A question, or a file of problems.")],
    recipe: Annotated[
        str | None, typer.Option(help="Recipe whose [scaling] and [engine] apply. Default: that of the run.")
    ] = None,
    set_: Set = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="FILE.jsonl", help="Append a line per solved problem, and go on from there."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of sampling.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Answer with DeepConf: many traces, the doubtful ones cut short, the rest voting by confidence."""
    quiet(as_json)
    check_question(question)
    check_checkpoint(checkpoint)
    from h1r.config import load_recipe
    from h1r.config.text import parse_override
    from h1r.evals.answers import recipe_of, summary
    from h1r.evals.answers import solve as answer

    overrides = dict(map(parse_override, set_ or []))
    resolved = load_recipe(recipe_file(recipe), overrides) if recipe else recipe_of(checkpoint, overrides)
    go_on = "run it again" if out is None else f"the same command goes on from {out}"
    with stopping(go_on):
        solutions = answer(checkpoint, question, resolved, seed, out, system_prompt=overrides.get("chat.system_prompt"))
    if as_json:
        print_json([dataclasses.asdict(solution) for solution in solutions])
        return
    for solution in solutions:
        if len(solutions) > 1:
            print(f"--- {shown(solution.problem_id)} ---")
        print(shown(solution.lines()))
    if len(solutions) > 1:
        print(summary(solutions))
