"""The page at `/`: files of `static/`, which ask this server alone and run no text of a model or of a request.

The policy of every reply here: scripts and styles of this server's own files, none that stand in the page, no HTML
made of text (`require-trusted-types-for`), no form that leaves, no frame around it. The page holds nothing secret, so
it needs no key; what it asks for needs one, and it then asks the person.
"""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from h1r.common.packaged import packaged
from h1r.common.style import CSS

_TYPES = {"html": "text/html", "js": "text/javascript", "css": "text/css", "svg": "image/svg+xml"}
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
)
_HEADERS = {
    "Content-Security-Policy": _POLICY, "X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin", "Cache-Control": "no-cache",
}  # fmt: skip


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
    return Response(content, media_type=kind, headers=_HEADERS)
