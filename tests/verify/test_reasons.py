"""Every 0 says why: each verifier gives each reason that it has, and no verdict below 1 is without one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, get_args

import pytest
import reasoning_gym
from hypothesis import given
from hypothesis import strategies as st

from chat_server import ChatServer, chat_server, says
from h1r.cli.verify import counts
from h1r.config.judge import JudgeSection
from h1r.records import REASONS, Problem, Reason, Verdict
from h1r.verify import VerifierPool, register, require, verifier_names
from h1r.verify.judge import grade as judge
from h1r.verify.registry import Verifier

GYM = {"entry": reasoning_gym.create_dataset("chain_sum", size=1, seed=1)[0]}
COUNTDOWN = {"entry": reasoning_gym.create_dataset("countdown", size=1, seed=1)[0]}
LETTERS = {"options": 4}
ADDS = {"tests": {"inputs": ["1\n"], "outputs": ["2\n"]}, "limits": {"time_s": 1.0}}
NO_COMMA = {"instruction_id_list": ["punctuation:no_comma"], "kwargs": [{}]}
TITLE = {"instruction_id_list": ["detectable_format:title"], "kwargs": [{}]}
UNKNOWN = {"instruction_id_list": ["no:such"], "kwargs": [{}]}
LONG = "\\boxed{" + "7" * 1_000_001 + "}"
LOOP = "```python\nwhile True:\n    pass\n```"
UNFINISHED = "<think>Is it"

CASES: list[tuple[str, Reason, str, dict[str, Any], str]] = [
    # verifier, reason, reference, metadata, response
    ("choice", "not_extracted", "B", LETTERS, "I cannot say."),
    ("choice", "not_extracted", "B", LETTERS, "It is not B."),
    ("choice", "not_readable", "B", LETTERS, LONG),
    ("choice", "wrong", "B", LETTERS, "Answer: C"),
    ("choice", "wrong", "B", LETTERS, "Answer: B or C"),
    ("choice", "unscored", "Z", LETTERS, "Answer: B"),
    ("code", "not_extracted", "", ADDS, "I have no program."),
    ("code", "wrong", "", ADDS, "```python\nprint(3)\n```"),
    ("code", "time", "", ADDS, LOOP),
    ("code", "crash", "", ADDS, "```python\nraise ValueError(1)\n```"),
    ("code", "unscored", "", {"tests": {"inputs": 3}}, "```python\nprint(2)\n```"),
    ("exact", "not_extracted", "seven", {}, "seven"),
    ("exact", "not_readable", "seven", {}, LONG),
    ("exact", "wrong", "seven", {}, r"\boxed{eight}"),
    ("exact", "unscored", "", {}, r"\boxed{eight}"),
    ("instructions", "not_extracted", "", NO_COMMA, UNFINISHED),
    ("instructions", "wrong", "", NO_COMMA, "well, no"),
    ("instructions", "time", "", TITLE, "<<" * 400_000),
    ("instructions", "unscored", "", UNKNOWN, "well"),
    ("instructions_loose", "not_extracted", "", NO_COMMA, UNFINISHED),
    ("instructions_loose", "wrong", "", NO_COMMA, "a, b\nc, d\ne, f"),
    ("instructions_loose", "unscored", "", UNKNOWN, "well"),
    ("judge", "not_extracted", "Paris", {}, " "),
    ("judge", "wrong", "Paris", {}, "Lyon"),
    ("judge", "unscored", "Paris", {}, "a place that leaves the judge speechless"),
    ("judge", "unscored", "", {}, "Lyon"),
    ("math", "not_extracted", "7", {}, "It is 7."),
    ("math", "not_extracted", "7", {}, UNFINISHED),
    ("math", "not_readable", "7", {}, LONG),
    ("math", "wrong", "7", {}, r"\boxed{8}"),
    ("math_lenient", "not_extracted", "7", {}, "The answer is not 5."),
    ("math_lenient", "not_readable", "7", {}, LONG),
    ("math_lenient", "wrong", "7", {}, "The answer is 8."),
    ("reasoning_gym", "not_extracted", "", GYM, "none"),
    ("reasoning_gym", "not_readable", "", COUNTDOWN, r"\boxed{__import__('os').getcwd()}"),
    ("reasoning_gym", "wrong", "", GYM, r"\boxed{-1}"),
    ("reasoning_gym", "unscored", "", {}, r"\boxed{1}"),
]

GRADED_BY_A_WORKER: list[tuple[str, str, dict[str, Any], str]] = [
    # verifier, reference, metadata, response
    *((name, "", NO_COMMA, "well, no") for name in ("instructions", "instructions_loose")),
    *((name, r"\int_0^1 x dx", {}, r"\boxed{\int_0^1 y dy}") for name in ("math", "math_lenient")),
    ("reasoning_gym", "", COUNTDOWN, r"\boxed{(1+2)*3}"),
]


@pytest.fixture(scope="module")
def server() -> Iterator[ChatServer]:
    """A judge that has no word for what is speechless, and calls all else wrong."""

    def judges(handler: Any, body: dict[str, Any]) -> None:
        is_speechless = "speechless" in body["messages"][1]["content"]
        says("..." if is_speechless else "Verdict: incorrect")(handler, body)

    with chat_server(judges) as one:
        yield one


@pytest.fixture(scope="module")
def pool(server: ChatServer) -> Iterator[VerifierPool]:
    with pytest.MonkeyPatch.context() as patch, VerifierPool(time_limit_s=3.0) as one:
        patch.setenv(judge.SETTINGS_VARIABLE, JudgeSection(urls=[server.url], model="m").model_dump_json())
        # All at once, so that one worker has them all: one that comes late costs a worker
        asked = [Problem("p", "", answer, name, metadata=metadata) for name, answer, metadata, _ in GRADED_BY_A_WORKER]
        one.verify_many(asked, [text for *_, text in GRADED_BY_A_WORKER])
        yield one
        if judge._instance is not None:
            judge._instance.close()
            judge._instance = None


@pytest.mark.parametrize(
    ("verifier", "reason", "reference", "metadata", "response"),
    CASES,
    ids=[f"{case[0]}-{case[1]}-{number}" for number, case in enumerate(CASES)],
)
def test_a_verifier_gives_the_reason(
    verifier: str, reason: str, reference: str, metadata: dict[str, Any], response: str, pool: VerifierPool
) -> None:
    owner = Problem(id="p", question="What is it?", answer=reference, verifier=verifier, metadata=metadata)
    (verdict,) = pool.verify_many([owner], [response])
    assert (verdict.reward, verdict.reason) == (0.0, reason), verdict.error


def test_every_verifier_is_driven_to_wrong_and_to_not_extracted() -> None:
    ours = [name for name in verifier_names() if str(require(name)).count("h1r.verify.")]
    for name in ours:
        assert {"wrong", "not_extracted"} <= {reason for verifier, reason, *_ in CASES if verifier == name}, name


def test_a_scorer_that_raises_is_a_crash() -> None:
    register(Verifier("raises", "operator:truediv"))
    with VerifierPool() as own:  # a worker that has it alone
        (verdict,) = own.verify_many([Problem(id="p", question="", answer="", verifier="raises")], ["x"])
    assert verdict.reason == "crash"


@given(st.floats(0.0, 1.0), st.sampled_from([None, *REASONS]))
def test_a_verdict_has_a_reason_if_and_only_if_it_is_below_full_reward(reward: float, reason: Reason | None) -> None:
    verdict = Verdict(reward, reason=reason)
    assert (verdict.reason is None) == (reward >= 1.0)
    assert reward >= 1.0 or verdict.reason == (reason or "wrong")


def test_the_summary_counts_each_reason_that_occurs() -> None:
    from collections import Counter

    assert get_args(Reason) == REASONS
    assert counts(Counter({None: 3, "time": 2, "wrong": 1})) == "3 right, 1 wrong, 2 time"
    assert counts(Counter({"unscored": 1})) == "0 right, 1 unscored"
