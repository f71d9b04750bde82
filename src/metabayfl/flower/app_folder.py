"""The app that Flower runs at both ends: a file that calls this library, and nothing to install."""

from __future__ import annotations

MODULE = "federated"

CODE = '''\
"""Both ends of a metabayfl federation, as Flower loads them; everything is in the library."""

from metabayfl.flower.client_app import client_app
from metabayfl.flower.server_app import server_app

client = client_app()
server = server_app()
'''

SETTINGS = f"""\
# metabayfl must be installed wherever this app runs: Flower is to install nothing by itself, so there are no dependencies here.
[project]
name = "federated"
version = "1.0.0"
description = "Trains a metabayfl strategy over sites that keep their data"
license = "Apache-2.0"
dependencies = []

[tool.flwr.app]
publisher = "metabayfl"
fab-include = ["{MODULE}.py"]

[tool.flwr.app.components]
serverapp = "{MODULE}:server"
clientapp = "{MODULE}:client"

[tool.flwr.app.config]
job = ""
"""

FILES = {"pyproject.toml": SETTINGS, f"{MODULE}.py": CODE}
"""Every file of the app by its name."""
