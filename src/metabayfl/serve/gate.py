"""Who is let in, how often, and with how much: tokens, rates and bodies.

A token opens one client. To another client's token every client's address says the same, whether that client exists or not.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable

from starlette.requests import ClientDisconnect, Request

from metabayfl.serve import tokens
from metabayfl.serve.problems import RequestError
from metabayfl.serve.service import Service
from metabayfl.serve.tokens import NAME, Bearer

_KEY = re.compile(r"[\x21-\x7e]{1,128}")
_CHALLENGE = {"WWW-Authenticate": "Bearer"}


class Rates:
    """A bucket of requests for every token: ``burst`` at once, refilled at ``rate`` a second."""

    def __init__(self, rate: float, burst: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate, self._burst, self._clock = rate, float(burst), clock
        self._buckets: dict[str, tuple[float, float]] = {}

    def wait(self, name: str) -> float:
        """Seconds until this token may ask again; 0 counts the request."""
        now = self._clock()
        left, since = self._buckets.get(name, (self._burst, now))
        left = min(self._burst, left + (now - since) * self._rate)
        self._buckets[name] = (left - 1.0 if left >= 1.0 else left, now)
        return 0.0 if left >= 1.0 else (1.0 - left) / self._rate


def bearer(service: Service, rates: Rates, request: Request) -> Bearer:
    """Whose request it is.

    Raises:
        RequestError: 401 without a valid token, 429 if it asks too often.
    """
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    found = tokens.bearer(service.reader, token.strip()) if scheme.lower() == "bearer" else None
    if found is None:
        raise RequestError(401, "send a valid token as  Authorization: Bearer TOKEN; metabayfl token new makes one", headers=_CHALLENGE)
    wait = rates.wait(found.id)
    if wait:
        most = f"{service.limits.rate:g} requests a second"
        raise RequestError(429, f"this token may send {most}: wait and send it again", headers={"Retry-After": str(max(1, round(wait + 0.5)))})
    return found


def require_client(who: Bearer, client: str) -> None:
    """The client itself.

    Raises:
        RequestError: 403 to anyone else.
    """
    if who.client is None or who.client != client:
        raise RequestError(403, "this token is not that client's: ask with the client's own token")


def require_reader(who: Bearer, client: str) -> None:
    """The client itself, or the operator.

    Raises:
        RequestError: 403 to anyone else, 404 to the operator for what cannot be a client's name.
    """
    if who.client is not None:
        require_client(who, client)
    elif not NAME.fullmatch(client):
        raise RequestError(404, "there is no client of that name")


def require_operator(who: Bearer) -> None:
    """The operator.

    Raises:
        RequestError: 403 to a client.
    """
    if who.client is not None:
        raise RequestError(403, "this is for the operator: metabayfl token new --operator makes a token")


def idempotency_key(request: Request) -> str:
    """The request's key, or nothing.

    Raises:
        RequestError: 422 if it is no printable text of at most 128 characters.
    """
    key = request.headers.get("idempotency-key", "")
    if key and not _KEY.fullmatch(key):
        raise RequestError(422, "the Idempotency-Key must be 1 to 128 printable ASCII characters without spaces, such as a UUID")
    return key


async def body(service: Service, request: Request) -> bytes:
    """The whole body, within the limits on size and time.

    Raises:
        RequestError: 413 as soon as it is known to be too large, 408 if it does not come.
    """
    most = service.limits.body_bytes
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and len(declared) < 20 and int(declared) > most:
        raise _too_large(most)
    parts, size = [], 0
    try:
        async with asyncio.timeout(service.limits.body_seconds):
            async for part in request.stream():
                size += len(part)
                if size > most:
                    raise _too_large(most)
                parts.append(part)
    except TimeoutError:
        raise RequestError(408, f"the body did not come within {service.limits.body_seconds:g} s: send it faster, or in smaller parts") from None
    except ClientDisconnect:
        raise RequestError(400, "the connection ended within the body") from None
    return b"".join(parts)


def _too_large(most: int) -> RequestError:
    return RequestError(
        413, f"the body is larger than {most:,} bytes, the most that this server takes: send fewer rows at once", headers={"Connection": "close"}
    )
