"""What keeps a client's data its own: secure aggregation, clipping and noise, and the accounts of what was spent.

Nothing here is imported unless it is asked for: ``cryptography`` and ``dp-accounting`` come with the extra ``privacy``.
"""
