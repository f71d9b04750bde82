"""What the operator of a server may choose."""

from __future__ import annotations

import ssl
from dataclasses import dataclass, fields
from pathlib import Path

from metabayfl.errors import ConfigError


@dataclass(frozen=True)
class Limits:
    """How much one request, one client and one token may ask for.

    Attributes:
        body_bytes: of a request's body; a larger one is refused before it is read.
        body_seconds: within which a body must have come.
        rows: in one request.
        samples: labelled samples that one client's posterior is made from.
        cases: referred cases of one client that wait for a label; with more, the oldest are dropped.
        records: newest labelled cases, answers to labels and idempotency keys that are kept of one client.
        rate: requests a second of one token, on average.
        burst: requests of one token at once.
        models: clients whose models are kept ready in memory.
    """

    body_bytes: int = 8 * 2**20
    body_seconds: float = 20.0
    rows: int = 1000
    samples: int = 5000
    cases: int = 1000
    records: int = 10_000
    rate: float = 200.0
    burst: int = 400
    models: int = 256

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            if not 0 < value < float("inf"):
                raise ConfigError(f"the limit {item.name} is {value}, expected a number above 0: leave it out for {item.default}")


@dataclass(frozen=True)
class Address:
    """Where the server listens, and its TLS certificate if it has one."""

    host: str = "127.0.0.1"
    port: int = 8080
    certificate: Path | None = None
    key: Path | None = None

    def __post_init__(self) -> None:
        if (self.certificate is None) != (self.key is None):
            raise ConfigError("TLS needs both --tls-cert and --tls-key: give both, or neither behind a proxy that has its own")
        if self.certificate is None:
            return
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(self.certificate, self.key)
        except OSError as error:  # a broken one too: ssl's errors are of this kind
            raise ConfigError(f"{self.certificate} and {self.key} are no certificate with its key ({error}): give both in PEM form") from error
