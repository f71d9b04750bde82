"""An application in this process over a store in a folder, with tokens for two clients and the operator."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import httpx
from fastapi import FastAPI
from httpx import Response

from metabayfl.personal import PersonalStrategy
from metabayfl.serve import database, tokens
from metabayfl.serve.app import build
from metabayfl.serve.options import Limits
from metabayfl.serve.service import Service
from tiny import patients

CLIENTS = ("h0", "h1")


class Served(NamedTuple):
    """A server in this process."""

    app: FastAPI
    service: Service
    tokens: dict[str, str]  # by client; the operator's under ""
    runner: asyncio.Runner

    def get(self, path: str, who: str = "h0") -> Response:
        return self.ask("GET", path, headers=self.headers(who))

    def post(self, path: str, value: Any, who: str = "h0", key: str = "") -> Response:
        return self.ask("POST", path, json=value, headers={**self.headers(who), **({"Idempotency-Key": key} if key else {})})

    def ask(self, method: str, path: str, **more: Any) -> Response:
        return self.together([(method, path, more)])[0]

    def together(self, requests: Iterable[tuple[str, str, dict[str, Any]]]) -> list[Response]:
        """All at once."""

        async def send() -> list[Response]:
            async with httpx.AsyncClient(transport=httpx.ASGITransport(self.app), base_url="http://server") as http:
                return await asyncio.gather(*(http.request(method, path, **more) for method, path, more in requests))

        return self.runner.run(send())

    def headers(self, who: str = "h0") -> dict[str, str]:
        return {"Authorization": f"Bearer {self.tokens[who]}"}


Serve = Callable[..., AbstractContextManager[Served]]


@contextmanager
def serve(source: PersonalStrategy, folder: Path, limits: Limits | None = None) -> Iterator[Served]:
    """An application over the folder; it may be opened again when it is closed."""
    with closing(database.connect(folder)) as store:
        held = {"" if client is None else client: tokens.make(store, client) for client in (*CLIENTS, None)}
    service = Service(source, folder, limits or Limits())
    app = build(service)
    with asyncio.Runner() as runner:
        lifespan = app.router.lifespan_context(app)
        runner.run(lifespan.__aenter__())
        try:
            yield Served(app, service, held, runner)
        finally:
            runner.run(lifespan.__aexit__(None, None, None))


def posted(count: int = 14, seed: int = 1, target: str = "outcome") -> dict[str, Any]:
    """Rows and labels of patients as requests carry them."""
    frame = patients(hospitals=-(-count // 14), seed=seed).iloc[:count]
    return {"rows": frame[["age", "sex"]].to_dict("records"), "labels": frame[target].tolist()}
