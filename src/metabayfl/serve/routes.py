"""The endpoints. Bodies are checked against the strategy's schema by :mod:`metabayfl.serve.requests`; FastAPI routes and documents.

A handler takes the request as it came and gives a finished response: to let the framework build and check both would cost more than a prediction.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response
from fastapi.routing import APIRoute
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from metabayfl.serve import answering, clients, gate, learning, openapi, reading, shapes, views
from metabayfl.serve.gate import Rates
from metabayfl.serve.service import Service

Handler = Callable[..., Awaitable[Response]]


class Direct(APIRoute):
    """Calls its handler with the request and the path's parameters, as texts, and leaves nothing else to be worked out for each request."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """FastAPI's place for this."""
        endpoint = self.endpoint

        async def handle(request: Request) -> Response:
            response: Response = await endpoint(request, **request.path_params)
            return response

        return handle


BINARY = "application/octet-stream"

_REFUSALS: dict[int | str, dict[str, Any]] = {
    status: {"model": shapes.Refused} for status in (400, 401, 403, 404, 408, 409, 413, 422, 429, 500, 503, 507)
}

_KEY = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "description": "A request that is repeated under its key is applied once.",
    "schema": {"type": "string", "maxLength": 128, "pattern": "^[!-~]+$"},
}


_ENCODER = json.JSONEncoder(allow_nan=False)  # json.dumps would make one for every answer


def answer(value: Any) -> Response:
    """A JSON response."""
    return Response(_ENCODER.encode(value), media_type="application/json")


def add(out: APIRouter, service: Service, rates: Rates) -> None:
    """Put all endpoints over one service into a router."""
    out.route_class = Direct
    _asking(out, service, rates)  # first: routes are tried in order, and predictions are most of what comes
    _changing(out, service, rates)
    _looking(out, service, rates)
    _operating(out, service, rates)


def _changing(out: APIRouter, service: Service, rates: Rates) -> None:
    schema, most = service.source.schema, service.limits.rows
    share = {"type": "number", "minimum": 0, "maximum": 1}
    fields = {"refer_share": share, "refer_error": share, "novelty_rate": share, "replace": {"type": "boolean"}}
    first = {**openapi.rows_body(schema, most, labels=True, fields=fields), "parameters": [_KEY]}
    more = {**openapi.rows_body(schema, most, labels=True, fields={}), "parameters": [_KEY]}

    async def personalize(request: Request, client: str) -> Response:
        """Make the client's posterior from labelled samples."""
        gate.require_client(gate.bearer(service, rates, request), client)
        return answer(await learning.personalize(service, client, await gate.body(service, request), gate.idempotency_key(request)))

    async def update(request: Request, client: str) -> Response:
        """Update the client's posterior with more labelled samples, exactly."""
        gate.require_client(gate.bearer(service, rates, request), client)
        return answer(await learning.update(service, client, await gate.body(service, request), gate.idempotency_key(request)))

    async def label(request: Request, client: str, case: str) -> Response:
        """Give a referred case its label, from which the posterior learns."""
        gate.require_reader(gate.bearer(service, rates, request), client)
        return answer(await learning.label(service, client, case, await gate.body(service, request)))

    _add(out, "POST", "/v1/clients/{client}/personalize", personalize, shapes.Changed, first)
    _add(out, "POST", "/v1/clients/{client}/update", update, shapes.Changed, more)
    _add(out, "POST", "/v1/clients/{client}/cases/{case}/label", label, shapes.Labelled, openapi.label_body(schema))


def _asking(out: APIRouter, service: Service, rates: Rates) -> None:
    body = openapi.rows_body(service.source.schema, service.limits.rows, labels=False, fields={"keep": {"type": "boolean"}})

    async def predict(request: Request, client: str) -> Response:
        """Predict rows: probabilities, uncertainty in its parts, and which rows to refer."""
        gate.require_client(gate.bearer(service, rates, request), client)
        return answer(await answering.predict(service, client, await gate.body(service, request)))

    _add(out, "POST", "/v1/clients/{client}/predict", predict, shapes.Predictions, body)


def _looking(out: APIRouter, service: Service, rates: Rates) -> None:
    def view(path: str, shape: Any, look: Callable[..., dict[str, Any]], *parameters: reading.Parameter) -> None:
        async def handler(request: Request, client: str) -> Response:
            gate.require_reader(gate.bearer(service, rates, request), client)
            given = reading.read(request, parameters)
            return answer(await service.view(look, service, client, **given))

        handler.__doc__ = look.__doc__
        handler.__name__ = look.__name__
        _add(out, "GET", f"/v1/clients/{{client}}{path}", handler, shape, {"parameters": reading.documented(parameters)})

    most = reading.Number("most", 200, 1, 10_000)
    view("", shapes.ClientState, views.state)
    view("/cases", shapes.Cases, views.listed_cases, reading.Flag("waiting", default=True), most)
    view("/reliability", shapes.Reliability, views.reliability, reading.Number("most", 1000, 1, 10_000))
    view("/feedback", shapes.FeedbackList, views.listed_feedback, most)
    view("/history", shapes.History, views.over_time, reading.Number("minutes", 1440, 1, 43_200))
    view("/alarms", shapes.Alarms, views.alarms)

    async def posterior(request: Request, client: str) -> Response:
        """The posterior's file, which `metabayfl predict` and `metabayfl export` take."""
        gate.require_reader(gate.bearer(service, rates, request), client)
        _, data = await service.view(clients.posterior, service.viewer, client)
        return Response(data, media_type=BINARY)

    _add(out, "GET", "/v1/clients/{client}/posterior", posterior, BINARY, {})


def _operating(out: APIRouter, service: Service, rates: Rates) -> None:
    async def bearer(request: Request) -> Response:
        """Whose token it is: a client's, or the operator's."""
        who = gate.bearer(service, rates, request)
        return answer({"client": who.client, "operator": who.client is None})

    async def strategy(request: Request) -> Response:
        """The strategy served: its schema, its classes, an example of a row, and the limits."""
        gate.bearer(service, rates, request)
        return answer(views.strategy(service))

    async def overview(request: Request) -> Response:
        """All clients, for the operator."""
        gate.require_operator(gate.bearer(service, rates, request))
        return answer(await service.view(views.overview, service))

    async def metrics(request: Request) -> Response:
        """Meters in Prometheus's format, for the operator."""
        gate.require_operator(gate.bearer(service, rates, request))
        known, waiting = await service.view(views.counts, service)
        service.meters.clients.set(known)
        service.meters.waiting.set(waiting)
        return Response(generate_latest(service.meters.registry), media_type=CONTENT_TYPE_LATEST)

    async def health(_: Request) -> Response:
        """Whether the process answers."""
        return answer({"status": "alive"})

    async def ready(_: Request) -> Response:
        """Whether the store answers too."""
        await service.view(views.counts, service)
        return answer({"status": "ready"})

    _add(out, "GET", "/v1/bearer", bearer, shapes.Bearer, {})
    _add(out, "GET", "/v1/strategy", strategy, shapes.StrategyFacts, {})
    _add(out, "GET", "/v1/overview", overview, shapes.Overview, {})
    _add(out, "GET", "/metrics", metrics, "text/plain", {})
    _add(out, "GET", "/health", health, shapes.Health, {})
    _add(out, "GET", "/ready", ready, shapes.Health, {})


def _add(out: APIRouter, method: str, path: str, handler: Handler, shape: Any, extra: dict[str, Any]) -> None:
    """``shape`` is a model of the JSON answered, or another media type."""
    answered = {"content": {shape: {}}} if isinstance(shape, str) else {"model": shape}
    out.add_api_route(
        path, handler, methods=[method], response_model=None, response_class=Response, openapi_extra=extra, responses={**_REFUSALS, 200: answered}
    )
