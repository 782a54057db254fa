"""The page at `/`: files of `static/`, which ask this server alone and run no text of a model or of a request.

The policy of every reply (`common/web_policy.py`) is strict. The page holds nothing secret, so it needs no key; what it
asks for needs one, and it then asks the person.
"""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from h1r.common.packaged import packaged
from h1r.common.style import CSS
from h1r.common.web_policy import PAGE_HEADERS

_TYPES = {"html": "text/html", "js": "text/javascript", "css": "text/css", "svg": "image/svg+xml"}


def _read() -> dict[str, tuple[bytes, str]]:
    """Of each path, what is there and its type."""
    found = {
        f"/static/{one.name}": (one.read_bytes(), _TYPES[one.name.rpartition(".")[2]])
        for one in packaged("serve", "static").iterdir()
        if one.name.rpartition(".")[2] in _TYPES
    }
    found["/static/style.css"] = (CSS.encode() + found["/static/style.css"][0], "text/css")
    found["/"] = found.pop("/static/index.html")
    return found


PAGE_FILES = _read()


def page_routes() -> list[Route]:
    """A route for every file."""
    return [Route(path, _answer) for path in PAGE_FILES]


async def _answer(request: Request) -> Response:
    content, kind = PAGE_FILES[request.url.path]
    return Response(content, media_type=kind, headers=PAGE_HEADERS)
