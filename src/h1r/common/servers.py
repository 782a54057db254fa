"""What every client of a group of servers needs, over whatever transport: which server is asked next, whether a failure
may pass and how long to wait after it, and the key that the servers want. Opens no connection itself.

    servers = Servers(["http://a:8000/v1", "http://b:8000/v1"])
    server = servers.take()                          # the one with the fewest requests outstanding
    ...
    servers.give_back(server)                        # or give_back(server, failed=True, asked_s=20.0)

Threads and one event loop may use it alike. The chat client `common/http.py` is built on it.
"""

from __future__ import annotations

import email.utils
import ipaddress
import os
import random
import threading
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from html.parser import HTMLParser
from typing import Any, Literal
from urllib.parse import urlsplit, urlunsplit

from h1r.errors import UserError

CUT = "cancelled"
"""`stop_reason` of a choice that `h1r serve` ended in the middle since it stops; vLLM tells the stop string there."""
COOLDOWN_S = 5.0
"""For so long a server that failed is passed over, where there is another."""
Failure = Literal["passing", "limited", "to mend", "refused"]
"""`passing` may pass: ask again. `limited`: a rate limit, which passes with time. `to mend`: a person has to, for all
requests alike. `refused`: asking the same again is of no use, another request may be answered."""
_NO_TEXT = ("head", "style", "script")
_PASSING = frozenset((408, 409, 425))
_TO_MEND = {
    401: "the API key is refused",
    402: "the account is out of credit",
    403: "the API key may not do this",
    404: "there is no such path or model",
}
_NO_CREDIT = (
    b"insufficient_quota", b"billing_hard_limit", b"credit balance", b"insufficient credit", b"insufficient balance",
)  # fmt: skip
"""How providers say, under other statuses than 402, that asking again is of no use before somebody pays."""


@dataclass(slots=True, eq=False)
class Server:
    """`outstanding`: requests, or their tokens, that were taken and not given back. `rests_until`: passed over until
    then where there is another; `closed_until`: nothing is to be sent to it before (times of `time.monotonic`)."""

    url: str
    outstanding: int = 0
    rests_until: float = 0.0
    closed_until: float = 0.0
    failures: int = 0

    @property
    def pause_s(self) -> float:
        """Seconds until the server takes requests again, by its own word; 0 where it does now."""
        return max(0.0, self.closed_until - time.monotonic())


class Servers:
    """Servers at `urls` that answer the same. Raises `UserError` for what is no URL."""

    def __init__(self, urls: Sequence[str]) -> None:
        for url in urls:
            if not url.startswith(("http://", "https://")):
                raise UserError(f"the endpoint `{url}` is no URL; it looks like http://host:8000/v1")
        self.all = [Server(url) for url in dict.fromkeys(url.rstrip("/") for url in urls)]
        self._turn = 0
        self._lock = threading.Lock()

    @property
    def headers(self) -> dict[str, str]:
        """What a request to any of them says: with others to ask, it is not to wait for one whose model is still being
        loaded (`serve/loading.py`)."""
        return {"Prefer": "wait=0"} if len(self.all) > 1 else {}

    def take(self, preferred: Server | None = None, weight: int = 1, tried: Collection[Server] = ()) -> Server:
        """The server with the least outstanding, in turns where several have; one that failed just now or asked to wait
        only where there is no other. `preferred`, where it did neither. weight: of this request, such as its tokens.
        tried: those that failed at this request already, which come last: where all rest, the one that is gone has the
        least outstanding."""
        now = time.monotonic()
        with self._lock:
            order = self.all[self._turn :] + self.all[: self._turn]
            if preferred is not None and max(preferred.closed_until, preferred.rests_until) <= now:
                order = [preferred]
            server = min(
                order,
                key=lambda one: (one.closed_until > now, one in tried, one.rests_until > now, one.outstanding),
            )
            self._turn = (self.all.index(server) + 1) % len(self.all)
            server.outstanding += weight
        return server

    def give_back(
        self, server: Server, failed: bool | None = False, asked_s: float | None = None, weight: int = 1
    ) -> None:
        """Ends a request of that weight. failed: None where its end says nothing of the server, as when the client hung
        up. `asked_s`: for how long the server asks not to be asked (`retry_after`)."""
        now = time.monotonic()
        with self._lock:
            server.outstanding -= weight
            if failed:
                server.failures += 1
                server.rests_until = now + COOLDOWN_S
                server.closed_until = max(server.closed_until, now + (asked_s or 0.0))
            elif failed is not None:
                server.failures, server.rests_until = 0, 0.0


def was_cut(choice: Mapping[str, Any]) -> bool:
    """Whether a choice of a reply ended because its server, one of ours, stops."""
    return choice.get("finish_reason") is not None and choice.get("stop_reason") == CUT


@dataclass(frozen=True, slots=True)
class Retries:
    """How often one request is tried, and the wait between two tries in seconds: it doubles from `backoff_s`, with a
    random part so that what failed together does not come back together; never more than `max_wait_s`.

    patience_s: for so long after its first try rate limits do not count among a request's tries.
    """

    attempts: int = 5
    backoff_s: float = 0.5
    max_wait_s: float = 30.0
    patience_s: float = 0.0

    def wait_s(self, failures: int, asked_s: float | None = None) -> float:
        """The wait after so many failures, or the one that the server asks for."""
        own = self.backoff_s * 2 ** min(failures - 1, 20) * random.uniform(0.5, 1.0)
        return min(own if asked_s is None else asked_s + random.uniform(0, self.backoff_s), self.max_wait_s)


def is_loopback(host: str) -> bool:
    """Whether a host's name or address is this machine as nobody else can reach it."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def failure_of(status: int, content: bytes = b"") -> Failure | None:
    """What an HTTP status, with the beginning of the reply, says of asking again; None for success."""
    if status < 300:
        return None
    if status in _TO_MEND or (400 <= status < 500 and any(words in content.lower() for words in _NO_CREDIT)):
        return "to mend"
    if status == 429:
        return "limited"
    return "passing" if status in _PASSING or status >= 500 else "refused"


def to_mend(status: int) -> str:
    """What a person has to know of a status that `failure_of` calls `to mend`."""
    return _TO_MEND.get(status, _TO_MEND[402])


class _Words(HTMLParser):
    """The text of a page, without what is no text of it."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self._hidden = 0

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self._hidden += tag in _NO_TEXT

    def handle_endtag(self, tag: str) -> None:
        self._hidden = max(0, self._hidden - (tag in _NO_TEXT))

    def handle_data(self, data: str) -> None:
        if not self._hidden:
            self.found.append(data)


def one_line_of(data: bytes) -> str:
    """The text of an error that is no JSON, without tags and styles where it is a page."""
    text = data.decode(errors="replace")
    if text.lstrip()[:1] == "<":
        page = _Words()
        page.feed(text)
        page.close()
        text = " ".join(page.found)
    return " ".join(text.split())[:500]


def retry_after(value: str | None) -> float | None:
    """The seconds from now of a Retry-After header: a number, or a date; None where it says neither."""
    text = (value or "").strip()
    if text.replace(".", "", 1).isdecimal():
        return float(text)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(text).timestamp() - time.time())
    except ValueError:
        return None


def api_key(variable: str | None) -> str | None:
    """The key in an environment variable; None without a name. `UserError` where it is not set."""
    if not variable:
        return None
    if key := os.environ.get(variable, "").strip():
        return key
    raise UserError(f"the environment variable {variable}, which holds the API key, is not set; export it")


def authorization(key: str | None) -> dict[str, str]:
    """The header that carries a key."""
    return {"Authorization": f"Bearer {key}"} if key else {}


def without_user(url: str) -> str:
    """An address as others may read it: without the name and password that it may hold."""
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
