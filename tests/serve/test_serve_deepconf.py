"""DeepConf through the server: the run of `h1r solve`, its options, its progress, and how it ends early."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import Any

import pytest
from served_model import NAME, QUESTION, RECIPE, Running, eventually
from test_serve_chat import ask, chunks

from h1r.evals.answers import open_checkpoint, recipe_of
from h1r.evals.solving import solve
from h1r.records import Problem, Trace, content_id, write_jsonl
from h1r.scaling.answers import extract_for, groups_for
from h1r.scaling.ballot import STATES
from h1r.scaling.parameters import DeepConf
from h1r.scaling.run import ScalingRun, problem_seed
from h1r.serve.errors import ApiError
from h1r.serve.options import plan_for, split_model
from h1r.serve.reply_text import TokenTexts

PROBLEM = Problem(content_id(QUESTION), QUESTION, "", "first-character")
VERIFIER = {"verifier": "first-character"}


def deepconf(server: Running, seed: int = 5, **options: Any) -> dict[str, Any]:
    return ask(server, seed=seed, max_tokens=24, deepconf={**VERIFIER, **options})


@pytest.mark.parametrize(("seed", "tau"), [(5, None), (6, 0.6), (7, 0.8)])
def test_it_is_the_run_of_solve_trace_by_trace(server: Running, run: Path, seed: int, tau: float | None) -> None:
    found = (
        deepconf(server, seed, tau=tau, return_traces="tokens")
        if tau
        else deepconf(server, seed, return_traces="tokens")
    )
    recipe = recipe_of(str(run), {} if tau is None else {"scaling.tau": tau})
    with open_checkpoint(str(run), recipe) as (engine, tokenizer):
        from h1r.rollout.pipeline import RolloutPipeline

        pipeline = RolloutPipeline(engine, tokenizer)
        (solution,) = ScalingRun(
            pipeline.engine, pipeline.prompts([PROBLEM]), DeepConf.from_section(recipe.scaling, 12),
            seeds=[problem_seed(seed, PROBLEM.id)], extract=extract_for(PROBLEM),
            groups=[groups_for(PROBLEM, pipeline.verify_many)],
        ).solve()  # fmt: skip
    traces = found["deepconf"]["traces"]
    assert [trace["text"] for trace in traces] == [trace.text for trace in solution.traces]
    assert [trace["state"] for trace in traces] == list(solution.states)
    assert [trace["seed"] for trace in traces] == [trace.seed for trace in solution.traces]
    for mine, theirs in zip(traces, solution.traces, strict=True):
        assert mine["confidences"] == pytest.approx(theirs.confidences, abs=1e-4)
        assert len(mine["token_texts"]) == mine["tokens"] == theirs.num_tokens
    said = found["usage"]["deepconf"]
    assert said["answer"] == solution.answer
    assert said["stop_reason"] == solution.stop_reason
    assert found["usage"]["completion_tokens"] == solution.tokens_total == sum(said["tokens_by_state"].values())
    if tau is None:
        assert "stopped" in solution.states


def test_thinking_is_counted_over_all_traces(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TokenTexts, "thinking", lambda self, token_ids, text: len(token_ids) - 1)
    usage = deepconf(server)["usage"]
    thinking = usage["completion_tokens"] - usage["deepconf"]["traces"]
    assert usage["completion_tokens_details"]["reasoning_tokens"] == thinking > 0
    asked = {"model": f"{NAME}@deepconf-12", "input": QUESTION, "seed": 5, "max_output_tokens": 24}
    usage = server.client.post("/v1/responses", json=asked).json()["usage"]
    assert usage["output_tokens_details"]["reasoning_tokens"] == usage["output_tokens"] - usage["deepconf"]["traces"]


def test_the_command_solve_comes_to_the_same(server: Running, run: Path, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "problem.jsonl", [PROBLEM])
    (solved,) = solve(str(run), str(tmp_path / "problem.jsonl"), recipe_of(str(run)), seed=5)
    said = deepconf(server)["usage"]["deepconf"]
    assert (said["answer"], said["tokens"], said["traces"]) == (solved.answer, solved.tokens, solved.traces)
    assert said["states"] == {state: solved.states[state] for state in STATES}
    assert [(one["answer"], pytest.approx(one["weight"], rel=1e-5)) for one in said["votes"]] == solved.votes


def test_the_reply_is_the_surest_trace_that_voted_for_the_answer(server: Running) -> None:
    found = deepconf(server, return_traces=True)
    said, traces = found["usage"]["deepconf"], found["deepconf"]["traces"]
    voters = [one for one in traces if one["state"] == "voted" and one["answer"] == said["answer"]]
    best = max(voters, key=lambda one: one["confidence"])
    assert (said["selected_by"], said["selected_trace"]) == ("votes", best["id"])
    assert found["choices"][0]["message"]["content"] == best["text"]


def test_by_confidence_no_answer_is_needed(server: Running) -> None:
    found = ask(server, deepconf={"budget": 6, "select": "confidence", "return_traces": True}, max_tokens=20)
    said = found["usage"]["deepconf"]
    whole = [one for one in found["deepconf"]["traces"] if one["finish_reason"] == "stop"]
    assert said["selected_by"] == "confidence"
    if whole:
        assert said["selected_trace"] == max(whole, key=lambda one: one["confidence"])["id"]


def test_progress_carries_every_trace_the_votes_and_what_was_spent(server: Running) -> None:
    events = chunks(server, deepconf=VERIFIER, max_tokens=24, seed=5, stream_options={"include_usage": True})
    progress = [event["deepconf"] for event in events if event.get("deepconf")]
    assert all(event["choices"][0]["delta"] in ({}, {"role": "assistant", "content": ""}) for event in events[:1])
    traces: dict[int, Any] = {}
    for event in progress:
        traces.update((one["id"], one) for one in event["traces"])
    last, usage = progress[-1], events[-1]["usage"]
    assert sorted(traces) == list(range(12))
    assert last["phase"] == "done"
    assert last["tokens"] == usage["completion_tokens"] == sum(one["tokens"] for one in traces.values())
    assert last["votes"] == usage["deepconf"]["votes"]
    assert last["threshold"] is not None
    assert {one["state"] for one in traces.values()} <= set(STATES)
    stopped = [one for one in traces.values() if one["state"] == "stopped"]
    assert stopped
    assert all(one["finish_reason"] == "confidence" and one["confidence"] < last["threshold"] for one in stopped)
    text = "".join(one["choices"][0]["delta"].get("content") or "" for one in events[:-1])
    assert text == deepconf(server)["choices"][0]["message"]["content"]


def test_a_suffix_an_object_and_an_effort_ask_for_the_same(server: Running) -> None:
    by_object = ask(server, deepconf={"budget": 16}, max_tokens=8)
    by_suffix = ask(server, model=f"{NAME}@deepconf-16", max_tokens=8)
    by_effort = ask(server, reasoning_effort="low", max_tokens=8)
    says = [one["usage"]["deepconf"] | {"seconds": 0} for one in (by_object, by_suffix, by_effort)]
    assert says[0] == says[1] == says[2]
    majority = ask(server, model=f"{NAME}@majority-6", max_tokens=8)["usage"]["deepconf"]
    assert (majority["method"], majority["stopped"], majority["traces"]) == ("majority", 0, 6)


def test_any_method_is_a_request_option(server: Running, run: Path, tmp_path: Path) -> None:
    asked = {"method": "esc", "budget": 9, "options": {"window": 3}, **VERIFIER}
    by_object = ask(server, deepconf=asked, max_tokens=24, seed=5)
    by_suffix = ask(server, model=f"{NAME}@esc-9", deepconf={**VERIFIER, "budget": 9}, max_tokens=24, seed=5)
    said = by_object["usage"]["deepconf"]
    assert (said["method"], said["budget"], said["warmup"], said["threshold"]) == ("esc", 9, 0, None)
    assert by_suffix["usage"]["deepconf"]["method"] == "esc"
    scaling = {"scaling.method": "esc", "scaling.options": {"window": 3}, "scaling.budgets": [9]}
    write_jsonl(tmp_path / "problem.jsonl", [PROBLEM])
    (solved,) = solve(str(run), str(tmp_path / "problem.jsonl"), recipe_of(str(run), scaling), seed=5)
    assert (said["answer"], said["tokens"], said["traces"]) == (solved.answer, solved.tokens, solved.traces)
    assert said["stop_reason"] == solved.stop_reason


def test_what_a_method_cannot_take_is_refused() -> None:
    from h1r.engine.protocol import SamplingParams

    assert split_model("a/b@short_3-8") == ("a/b", "short_3", 8)
    for wrong, why in (
        ({"method": "nothing"}, "deepconf.method is none of adaptive_consistency, "),
        ({"method": "esc", "tau": 0.9}, "deepconf: tau goes with method deepconf or majority, not esc"),
        ({"method": "esc", "options": {"windw": 3}}, "has no option `windw`"),
        ({"method": "bayesian_stopping"}, "needs the answer shapes"),
        ({"method": "bayesian_stopping", "options": {"shapes": "/etc/passwd"}}, "deepconf"),
        ({"options": {"window": 3}}, "method deepconf has no options"),
    ):
        with pytest.raises(ApiError, match=why):
            plan_for(RECIPE.scaling, 64, SamplingParams(), wrong, (None, None), None)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"budget": 0}, "deepconf.budget: Input should be greater than or equal to 1"),
        ({"budgett": 4}, "deepconf.budgett: no such key"),
        ({"return_traces": 5}, "deepconf.return_traces: Input should be a valid boolean or: Input should be 'tokens'"),
        (
            {"options": {"a": "b"}},
            "deepconf.options.a: Input should be a valid boolean or: Input should be a valid integer or: "
            "Input should be a valid number",
        ),
        (
            {"budget": 4, "warmup": 9},
            "deepconf: warmup = 9 is more than the budget of 4 traces; give fewer",
        ),
        (
            {"method": "esc", "options": {"window": 0}},
            'deepconf: method "esc": window = 0 is out of range; give',
        ),
        ([], 'deepconf is an object, such as {"budget": 64}'),
        ({"method": ""}, "deepconf.method is none of adaptive_consistency, "),
        ({"method": "majority", "keep_top": 0.5}, "deepconf: keep_top goes with method deepconf, not majority"),
        ({"method": "no_loops", "options": {"repeats": 1}}, 'deepconf: method "no_loops": repeats = 1 is out of range'),
        ({"x" * 100_000: 1}, "deepconf.xxx"),
    ],
)
def test_a_refusal_of_deepconf_names_the_key_as_the_request_has_it(wrong: Any, said: str) -> None:
    from h1r.engine.protocol import SamplingParams

    with pytest.raises(ApiError, match=f"^{re.escape(said)}") as error:
        plan_for(RECIPE.scaling, 64, SamplingParams(), wrong, (None, None), None)
    assert (error.value.param or "").startswith("deepconf")
    assert not re.search(r"DeepConf\.|Options|Method", str(error.value))
    assert len(json.dumps(error.value.body())) < 1000


def test_what_a_request_leaves_open_is_as_in_the_recipe() -> None:
    from h1r.engine.protocol import SamplingParams

    sampling = SamplingParams(temperature=0.9)
    plan = plan_for(RECIPE.scaling, 64, sampling, {}, (None, None), None)
    assert plan is not None
    expected = DeepConf.from_section(RECIPE.scaling, 12)
    import dataclasses

    assert dataclasses.replace(plan.params, sampling=expected.sampling) == expected
    assert plan.params.sampling.temperature == 0.9
    assert plan_for(RECIPE.scaling, 64, sampling, None, (None, None), None) is None
    assert split_model("a/b@deepconf-8") == ("a/b", "deepconf", 8)
    assert split_model("a@b") == ("a@b", None, None)
    for wrong in ({"budget": 65}, {"budgets": 3}, {"tau": 1.5}, {"budget": 4, "warmup": 5}, 3, {"voter": "me"}):
        with pytest.raises(ApiError, match=r"(?i)deepconf"):
            plan_for(RECIPE.scaling, 64, sampling, wrong, (None, None), None)


def test_a_client_that_hangs_up_leaves_no_trace_running(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = server.service.served.owners()[0].engine
    step = engine.step

    def unhurried() -> list[Trace]:
        time.sleep(0.01)
        return step()

    monkeypatch.setattr(engine, "step", unhurried)
    monkeypatch.setattr(engine._scheduler, "eos_token_ids", ())  # traces outlast whoever looks on a busy machine
    body = {"model": NAME, "messages": [{"role": "user", "content": QUESTION}], "max_tokens": 4000, "stream": True}
    body["temperature"] = 5
    owner, admission = server.service.served.owners()[0], server.service.admission
    for changes in ({"n": 16}, {"deepconf": {"budget": 64, "method": "majority"}}):
        with server.client.stream("POST", "/v1/chat/completions", json={**body, **changes}) as response:
            assert response.status_code == 200
            next(response.iter_lines())
            assert eventually(lambda: owner.load[0] > 0)
        assert eventually(lambda: owner.load == (0, 0) and admission.requests == admission.traces == 0), owner.load
    import contextlib

    import httpx2

    with contextlib.suppress(httpx2.TimeoutException):
        server.client.post("/v1/chat/completions", json={**body, "stream": False, "n": 3}, timeout=0.5)
    assert eventually(lambda: owner.load == (0, 0) and admission.requests == 0)


@pytest.mark.parametrize("seed", range(6))
def test_a_run_that_is_told_to_finish_answers_with_what_it_has(server: Running, seed: int) -> None:
    asked = {"max_tokens": 2000, "deepconf": {**VERIFIER, "budget": 20}, "stream_options": {"include_usage": True}}
    body = {"model": NAME, "messages": [{"role": "user", "content": QUESTION}], "stream": True, "seed": seed, **asked}
    with server.client.stream("POST", "/v1/chat/completions", json=body) as response:
        lines = response.iter_lines()
        next(lines)
        time.sleep(0.01 * seed)  # at several moments of its warm-up
        server.service.finish()
        rest = [line.removeprefix("data: ") for line in lines if line.startswith("data: ")]
    assert rest[-1] == "[DONE]"
    said = json.loads(rest[-2])["usage"]["deepconf"]
    assert said["traces"] == 20
    assert sum(said["tokens_by_state"].values()) == said["tokens"]
    assert said["stop_reason"] == "cancelled"
    assert said["saved_tokens"] is None
    assert said["states"]["cancelled"] > 0
    assert sum(said["states"].values()) == 20
    assert bool(said["votes"]) == (said["states"]["voted"] > 0)
    assert server.service.served.owners()[0].load == (0, 0)
