"""What the live view is told."""

from __future__ import annotations

from dataclasses import dataclass

from metabayfl.errors import ConfigError

PORT = 8600


@dataclass(frozen=True)
class Options:
    """Where the view is served.

    Attributes:
        port: on 127.0.0.1; 0 takes a free one.
        open_browser: whether to open the address in the browser.
    """

    port: int = PORT
    open_browser: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65535:
            raise ConfigError(f"port is {self.port}, expected 0 for a free one, or 1 to 65535")
