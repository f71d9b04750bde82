"""A token opens one client: to all others every address says the same, whether that client exists or not."""

from __future__ import annotations

import hashlib
from contextlib import closing
from pathlib import Path

import pytest
from served import Served, posted
from starlette.routing import Route

from metabayfl import page
from metabayfl.errors import ConfigError
from metabayfl.serve import database, tokens

OPEN = {"/", "/health", "/ready", "/openapi.json"}
CHANGES_OF_THE_CLIENT_ALONE = {"personalize", "predict", "update"}


def addresses(served: Served, client: str, case: str = "0" * 16) -> list[tuple[str, str]]:
    """Method and path of every endpoint on this client."""
    routes = [(method, route.path) for route in served.app.router.routes if isinstance(route, Route) for method in sorted(route.methods or ())]
    found = [(method, path.format(client=client, case=case)) for method, path in routes if "{client}" in path]
    assert len(found) >= 11
    return found


def ask(served: Served, method: str, path: str, who: str) -> tuple[int, bytes]:
    body = {"rows": posted(2)["rows"], "labels": ["ill", "well"], "label": "ill"}
    answer = served.ask(method, path, json=body if method == "POST" else None, headers=served.headers(who))
    return answer.status_code, answer.content


def made(served: Served) -> str:
    """Posteriors for both clients; a case of the first that waits."""
    for client in ("h0", "h1"):
        assert served.post(f"/v1/clients/{client}/personalize", {**posted(), "refer_share": 1.0}, who=client).status_code == 200
    case: str = served.post("/v1/clients/h0/predict", {"rows": posted(1, seed=2)["rows"]}).json()["predictions"][0]["case"]
    return case


def test_anothers_token_learns_nothing_not_even_who_exists(served: Served) -> None:
    case = made(served)
    before = served.get("/v1/clients/h0/posterior").content
    for mine, nobodys in zip(addresses(served, "h0", case), addresses(served, "nobody", case), strict=True):
        found = ask(served, *mine, "h1")
        assert found == ask(served, *nobodys, "h1")
        assert found[0] == 403
    assert served.get("/v1/clients/h0/posterior").content == before
    assert served.get("/v1/clients/h0/cases").json()["waiting"] == 1


def test_without_a_valid_token_every_address_says_the_same(served: Served) -> None:
    case = made(served)
    mine, operators = served.tokens["h0"], served.tokens[""]
    name, secret = mine.split(".")
    wrong = ["", "Bearer", "Bearer x", f"Basic {mine}", f"Bearer {name}.{'A' * 43}", f"Bearer {name}.{secret[:-1]}", f"Bearer {mine}x",
             f"Bearer 000000000000.{secret}", f"Bearer {name}.{operators.split('.')[1]}"]  # fmt: skip
    others = [("GET", "/v1/overview"), ("GET", "/v1/strategy"), ("GET", "/metrics")]
    answers = set()
    for header in wrong:
        for method, path in [*addresses(served, "h0", case), *addresses(served, "nobody", case), *others]:
            answer = served.ask(method, path, headers={"Authorization": header} if header else {})
            answers.add((answer.status_code, answer.content, answer.headers["www-authenticate"]))
    assert len(answers) == 1
    assert answers.pop()[0] == 401


def test_every_other_address_needs_a_token_but_those_that_say_that_it_runs(served: Served) -> None:
    routes = [route for route in served.app.router.routes if isinstance(route, Route)]
    free = {route.path for route in routes if served.ask(sorted(route.methods or ())[0], route.path.format(client="h0", case="x")).status_code != 401}
    assert free == OPEN | {f"/static/{name}" for name in page.files()}


def test_the_operator_reads_all_and_changes_no_posterior_but_by_a_label(served: Served) -> None:
    made(served)
    for method, path in addresses(served, "h0"):
        status, _ = ask(served, method, path, "")
        assert (status == 403) == (path.rsplit("/", 1)[1] in CHANGES_OF_THE_CLIENT_ALONE), path
    assert served.get("/v1/clients/..", who="").status_code in (403, 404)
    assert served.get("/v1/overview").status_code == 403
    assert served.get("/metrics").status_code == 403


def test_a_revoked_token_ends_at_once(served: Served) -> None:
    name = served.tokens["h0"].split(".")[0]
    assert served.get("/v1/strategy").status_code == 200
    with closing(database.connect(served.service.folder)) as store:  # as the command does it, from another process
        tokens.revoke(store, name)
        with pytest.raises(ConfigError, match="there is no valid token with the ID"):
            tokens.revoke(store, name)
    assert served.get("/v1/strategy").status_code == 401


def test_the_store_keeps_hashes_alone(served: Served) -> None:
    made(served)
    content = b"".join(path.read_bytes() for path in Path(served.service.folder).iterdir())
    for token in served.tokens.values():
        secret = token.split(".")[1]
        assert secret.encode() not in content
        assert hashlib.sha256(secret.encode()).digest() in content


def test_tokens_of_one_client_are_independent(served: Served) -> None:
    with closing(database.connect(served.service.folder)) as store:
        other = tokens.make(store, "h0")
        assert other != served.tokens["h0"]
        assert tokens.bearer(store, other) == tokens.Bearer(other.split(".")[0], "h0")
        with pytest.raises(ConfigError, match="the client's name"):
            tokens.make(store, "../h0")
