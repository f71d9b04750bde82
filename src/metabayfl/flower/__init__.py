"""Federations that really run: Flower carries the messages, everything else is here (extra ``flower``)."""
