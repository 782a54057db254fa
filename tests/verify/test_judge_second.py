"""Rule first, the judge on disagreement: which answers are asked about, and who decided."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from chat_server import ChatServer, chat_server, fails, says
from h1r.config.judge import JudgeSection
from h1r.config.verify import VerifySection
from h1r.errors import UserError
from h1r.records import Problem
from h1r.verify import open_backend
from h1r.verify.judge import grade as judge

RULED = {
    "right": r"\boxed{7}",
    "wrong": r"\boxed{8}",
    "unread": "I shall say no number.",
    "kind": r"\boxed{\text{seven}}",
    "open": "<think>seven",
}


def believes(handler: Any, body: dict[str, Any]) -> None:
    """A judge that takes any answer."""
    says("Verdict: correct")(handler, body)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[ChatServer]:
    with chat_server(believes) as one:
        monkeypatch.setenv(judge.SETTINGS_VARIABLE, JudgeSection(urls=[one.url], model="m").model_dump_json())
        yield one
    close()


def close() -> None:
    if judge._instance is not None:
        judge._instance.close()
        judge._instance = None


def problem(verifier: str = "math") -> Problem:
    return Problem(id="p", question="How many?", answer="7", verifier=verifier)


def graded(judge_on: str, *texts: str, owner: Problem | None = None) -> list[tuple[float, float | None]]:
    """(reward, the part that says who decided) of each answer."""
    with open_backend(VerifySection(judge_on=judge_on, workers=1)) as backend:  # type: ignore[arg-type]
        verdicts = backend.verify_many([owner or problem()] * len(texts), texts)
    assert all(verdict.parts["correct"] == verdict.reward for verdict in verdicts)
    assert all("format" in verdict.parts for verdict in verdicts)
    return [(verdict.reward, verdict.parts.get("judged")) for verdict in verdicts]


def test_never_asks_nobody(server: ChatServer) -> None:
    assert graded("never", *RULED.values())[1:3] == [(0.0, None)] * 2
    assert not server.requests


def test_unread_answers_are_asked_about_and_wrong_ones_are_not(server: ChatServer) -> None:
    found = dict(zip(RULED, graded("unread", *RULED.values()), strict=True))
    assert (found["right"], found["wrong"]) == ((1.0, 0.0), (0.0, 0.0))
    assert found["unread"] == (1.0, 1.0)
    assert found["open"] == (0.0, 0.0)


def test_wrong_answers_are_asked_about_where_the_recipe_says_so(server: ChatServer) -> None:
    found = dict(zip(RULED, graded("wrong", *RULED.values()), strict=True))
    assert (found["right"], found["wrong"], found["unread"], found["open"]) == (
        (1.0, 0.0),
        (1.0, 1.0),
        (1.0, 1.0),
        (0.0, 0.0),
    )


def test_an_answer_to_which_the_rule_objects_is_not_asked_about(server: ChatServer) -> None:
    hedged = Problem(id="c", question="Which?", answer="B", verifier="choice", metadata={"options": 4})
    assert graded("wrong", "Answer: B or C", owner=hedged) == [(0.0, 0.0)]
    assert not server.requests


def test_verifiers_without_a_text_to_hold_an_answer_against_are_not_asked_about(server: ChatServer) -> None:
    wanted = {"instruction_id_list": ["punctuation:no_comma"], "kwargs": [{}]}
    owner = Problem(id="i", question="Go on.", answer="", verifier="instructions", metadata=wanted)
    assert graded("wrong", "well, no", owner=owner) == [(0.0, 0.0)]
    assert not server.requests


def test_the_rule_stands_where_the_judge_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    with chat_server(fails(400)) as server:
        settings = JudgeSection(urls=[server.url], model="m", attempts=1)
        monkeypatch.setenv(judge.SETTINGS_VARIABLE, settings.model_dump_json())
        with open_backend(VerifySection(judge_on="wrong", workers=1)) as backend:
            (verdict,) = backend.verify_many([problem()], [RULED["wrong"]])
    close()
    assert (verdict.reward, verdict.reason, verdict.parts["judged"]) == (0.0, "wrong", 0.0)
    assert "the judge failed" in str(verdict.error)


def test_a_second_opinion_without_a_judge_is_the_users_mistake(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(judge.SETTINGS_VARIABLE, "{}")
    with pytest.raises(UserError, match=r"verify\.judge_on"):
        open_backend(VerifySection(judge_on="wrong"))
