"""Whether the server lets a site's key in. A SuperNode that is refused ends at once, and says neither why nor which key.

Flower takes a site that was killed for present until its heartbeats have been missing for a minute, and refuses its key as long: who comes back
waits.
"""

from __future__ import annotations

import time
from pathlib import Path

from metabayfl.errors import ConfigError
from metabayfl.flower import certificates
from metabayfl.flower.connection import AUTHORITY, KEY, Connection

WAIT = 90.0
"""Seconds after which a key that is still refused is not the key of a site that was killed."""

PAUSE = 1.0


def await_admission(folder: Path, connection: Connection, fingerprint: str) -> None:
    """Knock until the server lets this site's key in, however long it is away or not ready.

    Raises:
        ConfigError: if it refuses the key for longer than a killed site's.
    """
    end = time.monotonic() + WAIT
    while not (found := knock(folder, connection)):
        if found is None:
            end = time.monotonic() + WAIT
        elif time.monotonic() > end:
            raise ConfigError(
                f"the server at {connection.address} refuses the key {fingerprint} of site {connection.site!r}: either it has registered another, "
                f"which its operator sees with  ssh-keygen -l -f DIR/keys/{connection.site}.pub , or another machine takes part with this key"
            )
        time.sleep(PAUSE)


def knock(folder: Path, connection: Connection) -> bool | None:
    """Sign in and out again; False if the server refuses the key, None if it is away or not ready."""
    import httpx
    from flwr.common.constant import HEARTBEAT_DEFAULT_INTERVAL
    from flwr.proto.fleet_pb2 import ActivateNodeRequest, DeactivateNodeRequest
    from flwr.supercore.interceptors.http.runtime_version import RuntimeVersionHttpInterceptor
    from flwr.supercore.primitives.asymmetric import public_key_to_bytes
    from flwr.supernode.fleet_http_client import FleetHttpClient
    from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor

    private = certificates.crypto("hazmat.primitives.serialization").load_ssh_private_key((folder / KEY).read_bytes(), None)
    public = private.public_key()
    signed = [RuntimeVersionHttpInterceptor(component_name="SuperNode"), NodeAuthHttpInterceptor(private, public)]
    with FleetHttpClient.from_server_address(connection.address, False, (folder / AUTHORITY).read_bytes(), interceptors=signed) as client:
        try:
            found = client.ActivateNode(ActivateNodeRequest(public_key=public_key_to_bytes(public), heartbeat_interval=HEARTBEAT_DEFAULT_INTERVAL))
            client.DeactivateNode(DeactivateNodeRequest(node_id=found.node_id))
        except httpx.HTTPStatusError as error:
            return None if error.response.status_code >= 500 else False
        except httpx.TransportError:
            return None
    return True
