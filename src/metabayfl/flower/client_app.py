"""A site as Flower's ``ClientApp``."""

from __future__ import annotations

import logging
from collections.abc import Callable

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from metabayfl.flower.codec import from_content, to_content
from metabayfl.flower.flower_transport import TYPES
from metabayfl.flower.node_config import Site, from_node
from metabayfl.flower.records import Record, refusal
from metabayfl.flower.site import answer

log = logging.getLogger(__name__)


def site_of_node(context: Context) -> Site:
    """The site that the node's own config describes: ``site``, ``data``, ``folder``, and if need be ``client-column`` and ``secure-only``.

    Raises:
        ConfigError: for a key that is missing or of another type.
    """
    return from_node(context.node_config)


def client_app(site_of: Callable[[Context], Site] = site_of_node) -> ClientApp:
    """An app that answers every request of :mod:`metabayfl.flower`.

    Args:
        site_of: which site this is; by default what the node's config says.
    """
    app = ClientApp()

    def handle(message: Message, context: Context) -> Message:
        request = from_content(message.content)
        return Message(to_content(_answer(request, context, site_of)), reply_to=message)

    for kind in TYPES.values():
        category, _, action = kind.partition(".")
        register = getattr(app, category)
        (register(action) if action else register())(handle)
    return app


def _answer(request: Record, context: Context, site_of: Callable[[Context], Site]) -> Record:
    """Whatever goes wrong, its text stays here: Flower would send an exception's text, which may quote data, to the server."""
    try:
        return answer(site_of(context), request)
    except Exception as error:  # the boundary of the process: nothing is hidden, the whole trace is in the site's log
        log.exception("%s of round %d", request.header.phase, request.header.round)
        return refusal(request.header, "internal", f"the site met a {type(error).__name__}; its log has the trace")
