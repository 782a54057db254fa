"""Which of several servers is asked, which failures may pass, how long to wait, and where keys come from."""

from __future__ import annotations

import email.utils
import time

import pytest

from h1r.common.servers import Retries, Servers, api_key, authorization, failure_of, retry_after
from h1r.errors import UserError


def test_the_server_with_the_fewest_requests_outstanding_is_next() -> None:
    servers = Servers(["http://a", "http://b", "http://c"])
    held = [servers.take() for _ in range(6)]
    assert sorted(one.url[-1] for one in held) == list("aabbcc")
    quick = held[4]
    servers.give_back(quick)
    assert servers.take() is quick


def test_a_server_that_failed_or_asked_to_wait_comes_last() -> None:
    servers = Servers(["http://a", "http://b"])
    first = servers.take()
    servers.give_back(first, failed=True, asked_s=30.0)
    assert {servers.take().url for _ in range(4)} == {"http://b"}
    assert 29 < first.pause_s <= 30
    alone = Servers(["http://a"])
    alone.give_back(alone.take(), failed=True)
    assert alone.take().pause_s == 0


def test_a_server_that_failed_at_a_request_is_not_asked_again_before_the_others() -> None:
    servers = Servers(["http://gone", "http://busy"])
    gone, busy = servers.all
    busy.outstanding = 1000
    for one in (busy, gone):  # both rest, and the one that is gone has nothing outstanding
        servers.give_back(one, failed=True, weight=0)
    assert servers.take() is gone
    assert servers.take(tried=[gone]) is busy
    servers.give_back(gone, failed=None)
    assert gone.rests_until > time.monotonic()  # a client that hung up says nothing of a server


@pytest.mark.parametrize(
    ("status", "content", "expected"),
    [
        (200, b"", None), (500, b"", "passing"), (503, b"", "passing"), (408, b"", "passing"), (429, b"", "limited"),
        (429, b'{"error": {"code": "insufficient_quota"}}', "to mend"), (402, b"", "to mend"), (401, b"", "to mend"),
        (400, b"Your credit balance is too low to access the API", "to mend"), (400, b"too long", "refused"),
        (422, b"", "refused"), (404, b"", "to mend"),
    ],
)  # fmt: skip
def test_what_a_status_says_of_asking_again(status: int, content: bytes, expected: str | None) -> None:
    assert failure_of(status, content) == expected


def test_waits_double_and_stay_within_their_limit() -> None:
    retries = Retries(backoff_s=1.0, max_wait_s=10.0)
    for failures, (low, high) in enumerate([(0.5, 1), (1, 2), (2, 4), (4, 8), (8, 10), (10, 10)], 1):
        assert all(low <= retries.wait_s(failures) <= high for _ in range(20))
    assert 3 <= retries.wait_s(1, 3.0) <= 4
    assert retries.wait_s(1, 86400.0) == 10
    assert retries.wait_s(5000) == 10


def test_retry_after_is_seconds_or_a_date() -> None:
    assert retry_after("7") == 7
    assert retry_after(" 0.5 ") == 0.5
    assert 55 < (retry_after(email.utils.formatdate(time.time() + 60, usegmt=True)) or 0) <= 60
    assert retry_after("Wed, 21 Oct 2015 07:28:00 GMT") == 0
    assert [retry_after(value) for value in (None, "", "soon", "-3")] == [None] * 4


def test_a_key_is_read_from_the_variable_that_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_KEY", "secret\n")
    assert authorization(api_key("A_KEY")) == {"Authorization": "Bearer secret"}
    assert authorization(api_key(None)) == {}
    monkeypatch.delenv("A_KEY")
    with pytest.raises(UserError, match="A_KEY"):
        api_key("A_KEY")
