"""Secure aggregation: the server learns the sum of the clients' vectors and nothing else about them.

The protocol is that of Bonawitz et al. 2017 ("Practical Secure Aggregation for Privacy-Preserving Machine Learning", Figure 4) on the graph of Bell
et al. 2020 ("Secure Single-Server Aggregation with (Poly)Logarithmic Overhead", section 3). It protects from a server that keeps to the protocol and
looks at all it gets, together with fewer than ``threshold`` clients. What it does not protect from is in docs/secure_aggregation.md.

:mod:`~.fixed_point` makes integers of a tree; :mod:`~.client` and :mod:`~.server` are the two halves, :mod:`~.session` both in one process.
"""

from __future__ import annotations

from metabayfl.privacy.secure_aggregation.client import ClientState, Terms
from metabayfl.privacy.secure_aggregation.fixed_point import Encoding
from metabayfl.privacy.secure_aggregation.messages import PHASES, Phase, Setup
from metabayfl.privacy.secure_aggregation.server import ServerState, Sum
from metabayfl.privacy.secure_aggregation.session import Outcome, secure_sum

__all__ = ["PHASES", "ClientState", "Encoding", "Outcome", "Phase", "ServerState", "Setup", "Sum", "Terms", "secure_sum"]
