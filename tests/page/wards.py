"""A prediction server with seeded clients for the tests of its page: wards with patients, in a store that looks as after a day of use."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import numpy as np
import pandas as pd
import uvicorn

from metabayfl import config, random, study
from metabayfl.data import build_federation
from metabayfl.engine.rounds import rounds
from metabayfl.evaluation import calibrate
from metabayfl.personal import PersonalStrategy, load
from metabayfl.serve import database, history, tokens
from metabayfl.serve.app import build
from metabayfl.serve.history import Sums
from metabayfl.serve.options import Limits
from metabayfl.serve.service import Service

CLASSES = ("home", "ward", "intensive care")

STUDY = """
[data]
source = "csv"
path = "wards.csv"
client = "clinic"
target = "stay"
validation_clients = 3
heldout_clients = 1
support = 20
[model]
name = "mlp"
hidden = [24, 12]
[train]
rounds = 30
cohort = 14
validate_every = 0
[algorithm.meta_bayfl]
generator = "full"
body_lr = 5e-2
"""


def patients(rng: np.random.Generator, count: int) -> pd.DataFrame:
    """Patients of one clinic, which sends home and keeps by its own measure."""
    age, pressure = rng.uniform(18, 92, count), rng.normal(135, 20, count)
    oxygen, pain = rng.normal(94, 3, count).clip(80, 100), rng.choice(["none", "mild", "severe"], count, p=[0.4, 0.4, 0.2])
    strict = rng.normal(0, 0.7)
    need = (age - 55) / 18 + (pressure - 135) / 30 - (oxygen - 94) / 2.5 + 1.2 * (pain == "severe") + strict + rng.logistic(0, 0.35, count)
    stay = np.select([need > 1.8, need > 0.0], [CLASSES[2], CLASSES[1]], CLASSES[0])
    columns = {"age": age.round(), "blood pressure": pressure.round(), "oxygen": oxygen.round(1), "pain": pain, "stay": stay}
    return pd.DataFrame(columns)


def train(folder: Path) -> PersonalStrategy:
    """A small strategy for patients of clinics, not judged on any."""
    rng = np.random.default_rng(7)
    frame = pd.concat([patients(rng, 40).assign(clinic=f"clinic {at:02d}") for at in range(16)])
    return trained(folder, write_wards(folder, frame))


def write_wards(folder: Path, frame: pd.DataFrame) -> Path:
    """The config, with the table of clinics beside it."""
    frame.to_csv(folder / "wards.csv", index=False)
    (folder / "wards.toml").write_text(STUDY)
    return folder / "wards.toml"


def trained(folder: Path, path: Path) -> PersonalStrategy:
    """The strategy of a config's training clients, with what its validation clients know."""
    read = config.read(path)
    run = study.prepare(read, "meta_bayfl", 0, build_federation(read.data, 0), folder)
    *_, (state, _) = rounds(run.algorithm, run.federation, run.options, run.seed)
    known = calibrate(run.algorithm, state.best, run.federation.validation, random.key(0))
    study.strategy(run, state, known).save(folder / "strategy.safetensors")
    return load(folder / "strategy.safetensors")


class Served(NamedTuple):
    """A running server."""

    address: str
    store: Path
    operator: str  # its token

    def token(self, client: str) -> str:
        """A new token of a client."""
        with closing(database.connect(self.store)) as connection, database.transaction(connection):
            return tokens.make(connection, client)

    def post(self, token: str, path: str, body: dict[str, Any]) -> Any:
        """What the API answers to a POST."""
        answer = httpx.post(self.address + path, json=body, headers={"Authorization": f"Bearer {token}"}, timeout=60)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def stored(self, client: str) -> tuple[int, str]:
        """Version and digest of a client's posterior, read from the store's file."""
        with closing(database.connect(self.store)) as connection:
            return connection.execute("SELECT version, digest FROM clients WHERE client = ?", (client,)).fetchone()


@contextmanager
def served(source: PersonalStrategy, store: Path) -> Iterator[Served]:
    """A server in a thread of this process, at a free port."""
    with socket.create_server(("127.0.0.1", 0)) as door:
        server = uvicorn.Server(
            uvicorn.Config(build(Service(source, store, Limits())), log_config=None, log_level="warning", ws="none", timeout_graceful_shutdown=5)
        )
        thread = threading.Thread(target=server.run, kwargs={"sockets": [door]})
        thread.start()
        try:
            with closing(database.connect(store)) as connection, database.transaction(connection):
                operator = tokens.make(connection, None)
            yield Served(f"http://127.0.0.1:{door.getsockname()[1]}", store, operator)
        finally:
            server.should_exit = True
            thread.join()


def posted(frame: pd.DataFrame) -> dict[str, Any]:
    """A request's rows and labels."""
    return {"rows": frame.drop(columns="stay").to_dict("records"), "labels": frame["stay"].tolist()}


def furnish(server: Served, client: str, seed: int, *, samples: int = 15, labels: int = 40, asked: int = 40) -> str:
    """A client with a posterior, labels that came later, referred cases and a day's history; returns its token."""
    rng, token = np.random.default_rng(seed), server.token(client)
    frame = patients(rng, samples + labels + asked)
    server.post(token, f"/v1/clients/{client}/personalize", posted(frame[:samples]))
    server.post(token, f"/v1/clients/{client}/update", posted(frame[samples : samples + labels]))
    _past(server.store, client, rng)
    server.post(token, f"/v1/clients/{client}/predict", {"rows": posted(frame[samples + labels :])["rows"]})
    return token


def _past(store: Path, client: str, rng: np.random.Generator) -> None:
    """A day in which the epistemic part shrinks, as it does where labels come in."""
    now, tally = int(time.time() // 60), {}
    for ago in range(20, 1440, 20):
        aleatoric, epistemic = rng.uniform(0.35, 0.5), (0.05 + 0.22 * ago / 1440) * rng.uniform(0.8, 1.2)
        count = int(rng.integers(5, 30))
        parts = (count * value for value in (aleatoric + epistemic, aleatoric, epistemic))
        tally[client, now - ago] = Sums(count, int(0.2 * count), 0, *parts)
    with closing(database.connect(store)) as connection, database.transaction(connection):
        history.add(connection, tally)
