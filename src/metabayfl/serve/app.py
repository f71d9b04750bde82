"""The application: endpoints, the page's files, one shape for every refusal, and a meter around it all."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

import metabayfl
from metabayfl import page
from metabayfl.serve import routes
from metabayfl.serve.gate import Rates
from metabayfl.serve.problems import RequestError, problem
from metabayfl.serve.service import LOG, Service

_TITLE = "metabayfl: personal models"


def build(service: Service) -> FastAPI:
    """The ASGI application over a service, which it closes when it is shut down.

    The usual pages at ``/docs`` load scripts from elsewhere and are left out; ``/openapi.json`` is there.
    """

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        flushing = asyncio.create_task(service.flush_forever())
        try:
            yield
        finally:
            flushing.cancel()
            await service.flush()
            await service.close()

    app = FastAPI(title=_TITLE, version=metabayfl.__version__, docs_url=None, redoc_url=None, lifespan=lifespan, redirect_slashes=False)
    routes.add(app.router, service, Rates(service.limits.rate, service.limits.burst))
    app.router.routes.extend(page.routes("index.html"))
    for error in (RequestError, HTTPException, RequestValidationError):
        app.add_exception_handler(error, _refuse)
    app.add_middleware(Metered, service=service)
    return app


async def _refuse(request: Request, error: Exception) -> JSONResponse:
    found = _framework(error)
    return JSONResponse(found.body(), found.status, found.headers)


def _framework(error: Exception) -> RequestError:
    """A refusal by the framework in our own words."""
    if isinstance(error, HTTPException):
        words = {404: "there is nothing at this address: /openapi.json lists the endpoints", 405: "this address takes another method"}
        return RequestError(error.status_code, words.get(error.status_code, str(error.detail)), headers=dict(error.headers or {}))
    if isinstance(error, RequestValidationError):
        return RequestError(422, "; ".join(f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors()))
    return problem(error)


class Metered:
    """Times every request, counts it by endpoint and status, and turns whatever goes wrong below into a refusal."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self._app, self._meters = app, service.meters

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start, status = time.perf_counter(), 0

        async def sent(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, sent)
        except Exception as error:
            found = problem(error)
            if found.status >= 500:
                LOG.error("%s %s: %s", scope["method"], scope["path"], error, exc_info=error if found.status == 500 else None)
            if status:
                raise
            await JSONResponse(found.body(), found.status, found.headers)(scope, receive, sent)
        endpoint = _endpoint(scope)
        self._meters.seconds.labels(endpoint).observe(time.perf_counter() - start)
        self._meters.requests.labels(endpoint, str(status)).inc()


def _endpoint(scope: Scope) -> str:
    """The route's pattern: as many label values as there are endpoints, and not as there are addresses."""
    path: Any = getattr(scope.get("route"), "path", None)
    return path if isinstance(path, str) else "other"
