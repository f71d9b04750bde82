"""Both ends of a metabayfl federation, as Flower loads them; everything is in the library."""

from metabayfl.flower.client_app import client_app
from metabayfl.flower.server_app import server_app

client = client_app()
server = server_app()
