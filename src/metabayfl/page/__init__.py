"""The pages' own files, without a build step: HTML, a style sheet and JavaScript modules, and the headers that they travel with."""

from __future__ import annotations

from importlib import resources
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.routing import Route

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-cache",  # a new version of the package is seen with the next load
}
"""Scripts and styles from this server alone, none in the page itself; nothing is sent elsewhere, and no other site may put the page into a frame."""

FOLDER = "static"
KINDS = {"html": "text/html", "css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}
"""By the end of the name: a machine's own table may lack some, and a browser runs no module of another type."""


def files() -> dict[str, bytes]:
    """Every file of the pages by its name; only these are ever served."""
    folder = resources.files(__name__) / FOLDER
    return {item.name: item.read_bytes() for item in folder.iterdir() if item.is_file()}


def routes(start: str) -> list[Route]:
    """The pages' files under ``/static/NAME``, and one of them as ``/``.

    Args:
        start: name of the first page, such as ``watch.html``.
    """
    from starlette.responses import Response
    from starlette.routing import Route

    def route(path: str, name: str, data: bytes) -> Route:
        async def send(request: Request) -> Response:
            return Response(data, media_type=KINDS[name.rpartition(".")[2]], headers=HEADERS)

        return Route(path, send)

    held = files()
    return [route("/", start, held[start]), *(route(f"/{FOLDER}/{name}", name, data) for name, data in held.items())]
