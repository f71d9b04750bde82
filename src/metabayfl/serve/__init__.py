"""A prediction server for personal models: one strategy, one store, a token for every client (extra ``serve``).

From the disk to the wire: ``database`` and ``writer`` hold the SQLite file; ``clients``, ``cases``, ``feedback``, ``history``, ``applied`` and
``tokens`` are its tables; ``requests`` and ``answers`` are JSON at the two ends; ``service`` keeps what is alive, ``learning`` and ``answering``
work with it; ``gate`` lets in, ``routes`` and ``views`` are the endpoints, ``app`` puts them together and ``running`` is the process.
"""
