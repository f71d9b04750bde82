"""Federations that really run: Flower carries the messages, everything else is here (extra ``flower``).

``site`` and ``coordinator`` are the two ends, and speak in :class:`~metabayfl.flower.records.Record`; they know nothing of Flower. ``client_app``,
``server_app``, ``strategy`` and ``in_process`` put them into Flower's places. The modules that import Flower are imported where they are used.
"""
