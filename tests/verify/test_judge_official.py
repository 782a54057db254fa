"""The judge, asked in the words of a benchmark's authors: prompts, votes, and the confidence that an answer states."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from chat_server import Answer, chat_server, fails, says
from h1r.config.judge import JudgeSection
from h1r.errors import UserError
from h1r.records import Problem, Verdict
from h1r.verify.judge.forms import stated_confidence
from h1r.verify.judge.grade import Judge, quick
from h1r.verify.judge.official import OFFICIAL, official_messages


def problem(**metadata: Any) -> Problem:
    return Problem("p", "Answer in one line.\n\nWhich city?", "Paris", verifier="judge", metadata=metadata)


def judged(url: str, owner: Problem, answer: str, **keys: Any) -> Verdict:
    section = JudgeSection(urls=[url], model="judge", attempts=1, **keys)

    async def run() -> Verdict:
        one = Judge(section)
        try:
            return await one.grade(owner, answer)
        finally:
            await one.close()

    return asyncio.run(run())


def reply(correct: str, confidence: str = "80%") -> Answer:
    return says(f"extracted_final_answer: Paris\n\nreasoning: same\n\ncorrect: {correct}\n\nconfidence: {confidence}")


def test_the_whole_response_is_put_into_the_authors_words_with_the_bare_question() -> None:
    answer = "Explanation: it is.\nAnswer: Paris {question}\nConfidence: 80%"
    with chat_server(reply("yes")) as server:
        verdict = judged(server.url, problem(judge="hle", question="Which city?"), answer)
    (body,) = server.requests
    (message,) = body["messages"]
    assert message["role"] == "user"
    expected = OFFICIAL["hle"].template.replace("{question}", "Which city?").replace("{correct_answer}", "Paris")
    assert message["content"] == expected.replace("{response}", answer)
    assert (verdict.reward, verdict.parts["confidence"]) == (1.0, 0.8)


def test_a_description_is_judged_from_its_final_answer_line_on() -> None:
    answer = "It is found.\n### The final answer is: no\nWait.\n### The Final Answer: all odd n"
    (message,) = official_messages(OFFICIAL["amo"], "Which n?", "n odd", answer, 1000)
    assert "### Student Answer\nall odd n\n\nNow" in message["content"]
    (message,) = official_messages(OFFICIAL["amo"], "Which n?", "n odd", "all odd n", 1000)
    assert "### Student Answer\nall odd n\n\nNow" in message["content"]


@pytest.mark.parametrize(
    ("votes", "reward", "reason"),
    [
        ("CCIIC", 1.0, None),
        ("IICCI", 0.0, "wrong"),
        ("C??IC", 0.0, "unscored"),
        ("C?CIC", 1.0, None),
        ("II?CI", 0.0, "wrong"),
    ],
)
def test_the_majority_of_all_votes_decides_and_a_vote_that_is_none_is_on_no_side(
    votes: str, reward: float, reason: str | None
) -> None:
    said = {"C": "It is.\n### Conclusion: Correct", "I": "### Conclusion: Incorrect", "?": "I cannot tell."}
    with chat_server(says("none"), *(says(said[vote]) for vote in votes)) as server:
        verdict = judged(server.url, problem(judge="amo", votes=5), "Lyon")
    assert (verdict.reward, verdict.reason) == (reward, reason)
    assert len(server.requests) == 5


def test_votes_are_kept_one_by_one(tmp_path: Path) -> None:
    kept = {"cache": str(tmp_path / "judge.sqlite")}
    right = says("### Conclusion: Correct")
    with chat_server(right, fails(400)) as server:
        assert judged(server.url, problem(judge="amo", votes=3), "Lyon", **kept).reason == "unscored"
        asked = len(server.requests)
        assert judged(server.url, problem(judge="amo", votes=3), "Lyon", **kept).reward == 1.0
        assert len(server.requests) > asked
        before = len(server.requests)
        again = judged(server.url, problem(judge="amo", votes=3), "Lyon", **kept)
        assert (again.parts["judge:cached"], again.parts["judge:agreed"], len(server.requests)) == (1.0, 1.0, before)


@pytest.mark.parametrize(
    ("said", "confidence"),
    [
        ("correct: yes\nconfidence: 85%", 0.85),
        ("correct: yes\n**confidence:** 7", 0.07),
        (json.dumps({"correct": "no", "confidence": 100}), 1.0),
        ("correct: yes\nconfidence: 250", 1.0),
        ("correct: yes\nconfidence: high", None),
        ("correct: yes", None),
        (json.dumps({"correct": "no", "confidence": "high"}), None),
    ],
)
def test_a_confidence_is_a_share_or_none(said: str, confidence: float | None) -> None:
    assert stated_confidence(said) == confidence


def test_only_the_bare_reference_needs_no_judge_and_counts_as_certain() -> None:
    owner = problem(judge="hle")
    for bare in ("Paris", r"\boxed{Paris}", " Paris\n"):
        verdict = quick(owner, bare)
        assert verdict is not None
        assert (verdict.reward, verdict.parts["confidence"]) == (1.0, 1.0)
    assert quick(owner, r"I am not sure: \boxed{Paris} Confidence: 10%") is None


def test_a_wish_that_nobody_knows_is_refused_with_the_problem() -> None:
    with chat_server(reply("yes")) as server:
        with pytest.raises(UserError, match=r"problem `p`: metadata `judge` is 'mine'; give one of hle, amo"):
            judged(server.url, problem(judge="mine"), "Lyon")
        for votes in (0, 2, "5"):
            with pytest.raises(UserError, match="give an odd number"):
                judged(server.url, problem(judge="hle", votes=votes), "Lyon")
