"""How a request is refused: a status, a code for programs and one sentence for people.

Every refusal has the body ``{"error": {"code": ..., "message": ...}}``, whoever noticed: the gate, the schema, the store or the framework.
"""

from __future__ import annotations

import sqlite3

from metabayfl.errors import ArtifactError, ConfigError, DataError, MetabayflError, SchemaError, StorageError

FULL = "the server's disk is full: nothing of this request was kept; free space there, then send it again"

_CODES = {
    400: "malformed",
    401: "unauthorised",
    403: "forbidden",
    404: "not_found",
    405: "method_not_allowed",
    408: "too_slow",
    409: "conflict",
    413: "too_large",
    422: "unfit",
    429: "too_many_requests",
    500: "internal",
    503: "unavailable",
    507: "disk_full",
}


class RequestError(Exception):
    """A request that is refused."""

    def __init__(self, status: int, message: str, code: str = "", headers: dict[str, str] | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.code = status, message, code or _CODES.get(status, "refused")
        self.headers = headers or {}

    def body(self) -> dict[str, dict[str, str]]:
        """What goes over the wire."""
        return {"error": {"code": self.code, "message": self.message}}


def problem(error: Exception) -> RequestError:
    """What a request is told of an error below: what its sender can mend by name, and of everything else only that it happened."""
    if isinstance(error, RequestError):
        return error
    if isinstance(error, (SchemaError, DataError, ConfigError)):
        return RequestError(422, str(error))
    if isinstance(error, ArtifactError):
        return RequestError(409, str(error), "unusable_posterior")
    if isinstance(error, StorageError) or is_full(error):
        return RequestError(507, FULL)
    if isinstance(error, sqlite3.OperationalError):
        return RequestError(
            503, "the store did not answer: nothing of this request was kept; send it again in a moment", headers={"Retry-After": "1"}
        )
    what = str(error) if isinstance(error, MetabayflError) else "something went wrong in the server: its log says what"
    return RequestError(500, what)


def is_full(error: Exception) -> bool:
    """Whether SQLite or the system says that the disk would take no more."""
    return isinstance(error, sqlite3.Error) and getattr(error, "sqlite_errorcode", 0) & 0xFF in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR)
