"""A request that is answered with an error, in the form that OpenAI's clients read."""

from __future__ import annotations

from typing import Any

_TYPES = {
    401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error",
    500: "server_error", 502: "server_error", 503: "server_error",
}  # fmt: skip
_MOST_CHARACTERS, _MOST_OF_A_KEY = 500, 80


class ApiError(Exception):
    """`message`: a sentence for a person, which repeats none of the request's own text at length. param: the key of
    the request that is wrong. retry_after_s: when to ask again."""

    def __init__(
        self,
        status: int,
        message: str,
        param: str | None = None,
        code: str | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.param, self.code, self.retry_after_s = status, param, code, retry_after_s

    def body(self) -> dict[str, Any]:
        """The reply."""
        kind = _TYPES.get(self.status, "invalid_request_error")
        param = None if self.param is None else _printable(self.param, _MOST_OF_A_KEY)
        message = _printable(str(self), _MOST_CHARACTERS)
        return {"error": {"message": message, "type": kind, "param": param, "code": self.code}}

    def headers(self) -> dict[str, str]:
        """Beside the body."""
        headers = {} if self.retry_after_s is None else {"Retry-After": str(max(1, round(self.retry_after_s)))}
        return {**headers, "WWW-Authenticate": "Bearer"} if self.status == 401 else headers


def _printable(text: str, most: int) -> str:
    return "".join(one if one.isprintable() else " " for one in text[: most + 1])[:most]


class ClientGoneError(Exception):
    """The client hung up."""
