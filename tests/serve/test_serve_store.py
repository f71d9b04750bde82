"""The store: whole or as it was, bound to one strategy, owned by one server, and full disks lose nothing."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from served import Served, posted, serve

from metabayfl.errors import ArtifactError, ConfigError, StorageError
from metabayfl.personal import PersonalStrategy, personal_from_bytes
from metabayfl.serve import clients, database
from metabayfl.serve.clients import Client, StaleError
from metabayfl.serve.options import Limits
from metabayfl.serve.service import Service
from metabayfl.serve.writer import Writer
from tiny import full_disk

UPDATE = "/v1/clients/h0/update"


def whole(folder: Path) -> bool:
    with closing(database.connect(folder)) as store:
        return store.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def row(version: int = 1) -> Client:
    return Client("h0", "d" * 64, version, 3, None, 1.0, 2.0)


def test_a_posterior_follows_on_the_version_before_it_and_on_no_other(tmp_path: Path) -> None:
    with closing(database.connect(tmp_path)) as store:
        clients.put(store, row(1), b"one")
        clients.put(store, row(2), b"two")
        for version in (1, 2, 4):
            with pytest.raises(StaleError):
                clients.put(store, row(version), b"lost")
        assert clients.posterior(store, "h0") == (2, b"two")
        assert clients.find(store, "h0") == row(2)


def test_a_change_that_fails_takes_no_other_with_it(tmp_path: Path) -> None:
    def put(version: int) -> Callable[[sqlite3.Connection], None]:
        return lambda store: clients.put(store, row(version), b"%d" % version)

    async def changes() -> list[BaseException | None]:
        writer = Writer(tmp_path)
        try:
            return await asyncio.gather(*(writer.write(put(version)) for version in (1, 3, 2, 2, 3)), return_exceptions=True)
        finally:
            await writer.close()

    found = asyncio.run(changes())
    assert [type(item) for item in found] == [type(None), StaleError, type(None), StaleError, type(None)]
    with closing(database.connect(tmp_path)) as store:
        assert clients.posterior(store, "h0") == (3, b"3")


def test_a_change_waits_for_another_process_without_stopping_the_server(tmp_path: Path) -> None:
    async def changes() -> int:
        writer, rounds = Writer(tmp_path), 0
        with closing(database.connect(tmp_path)) as other:
            other.execute("BEGIN IMMEDIATE")
            waiting = asyncio.ensure_future(writer.write(lambda store: clients.put(store, row(), b"x")))
            while rounds < 5:
                await asyncio.sleep(0.01)
                rounds += 1
            assert not waiting.done()
            other.execute("ROLLBACK")
            await waiting
        await writer.close()
        return rounds

    assert asyncio.run(changes()) == 5
    with closing(database.connect(tmp_path)) as store:
        assert clients.posterior(store, "h0") == (1, b"x")


def test_what_was_handed_in_is_written_before_the_store_is_closed(tmp_path: Path) -> None:
    async def changes() -> None:
        writer = Writer(tmp_path)
        waiting = [asyncio.ensure_future(writer.write(lambda store, at=at: clients.put(store, row(at), b"x"))) for at in range(1, 300)]
        await asyncio.sleep(0)
        await writer.close()
        await asyncio.gather(*waiting)

    asyncio.run(changes())
    with closing(database.connect(tmp_path)) as store:
        assert clients.posterior(store, "h0")[0] == 299


@pytest.mark.parametrize("kind", ["no more pages", "no larger files"])
def test_a_full_disk_loses_nothing_and_says_so(outcome_strategy: PersonalStrategy, tmp_path: Path, kind: str) -> None:
    with serve(outcome_strategy, tmp_path) as served:
        served.post("/v1/clients/h0/personalize", {**posted(), "refer_share": 1.0})
        before = served.get("/v1/clients/h0/posterior").content
        with full_disk(room=0) if kind == "no larger files" else _full_store(served):
            refused = served.post(UPDATE, posted(60, seed=2), key="a")
            asked = served.post("/v1/clients/h0/predict", {"rows": posted(100, seed=3)["rows"]})
        assert (refused.status_code, refused.json()["error"]["code"]) == (507, "disk_full")
        assert "free space there, then send it again" in refused.json()["error"]["message"]
        assert len(asked.json()["predictions"]) == 100
        assert "100 referred cases were not kept for a person" in asked.json()["warning"]
        assert served.get("/v1/clients/h0/posterior").content == before
        assert served.get("/v1/clients/h0/feedback").json()["feedback"] == []
        answers = [served.post(UPDATE, posted(60, seed=2), key="a").json() for _ in range(2)]
        assert [item["applied"] for item in answers] == [True, False]
        assert served.get("/v1/clients/h0").json()["samples"] == 74
        served.runner.run(served.service.flush())
        assert served.get("/v1/clients/h0/history").json()["points"][0]["predictions"] == 100
    assert whole(tmp_path)


@contextmanager
def _full_store(served: Served) -> Iterator[None]:
    """The store's file may have no page more than it has, for as long as it is wanted."""

    def pages(most: int) -> None:
        served.runner.run(served.service.writer.write(lambda store: store.execute(f"PRAGMA max_page_count = {most}").fetchone()))

    pages(1)
    try:
        yield
    finally:
        pages(2**30)


def test_a_store_of_another_strategy_is_refused(outcome_strategy: PersonalStrategy, dose_strategy: PersonalStrategy, tmp_path: Path) -> None:
    with serve(outcome_strategy, tmp_path) as served:
        served.post("/v1/clients/h0/personalize", posted())
    with pytest.raises(ArtifactError, match=r"holds posteriors of the strategy .*serve that one, or choose another --store"):
        Service(dose_strategy, tmp_path, Limits())
    with serve(outcome_strategy, tmp_path) as served:
        assert served.get("/v1/clients/h0").status_code == 200


def test_a_posterior_of_another_strategy_in_the_store_is_never_used(
    outcome_strategy: PersonalStrategy, dose_strategy: PersonalStrategy, tmp_path: Path
) -> None:
    with serve(dose_strategy, tmp_path / "other") as served:
        served.post("/v1/clients/h0/personalize", posted(target="dose"))
        other = served.get("/v1/clients/h0/posterior").content
    with serve(outcome_strategy, tmp_path / "store") as served:
        served.post("/v1/clients/h1/personalize", posted(), who="h1")
        with closing(database.connect(tmp_path / "store")) as store:
            clients.put(store, row(), other)
        for path in (UPDATE, "/v1/clients/h0/predict"):
            found = served.post(path, posted(2) if path == UPDATE else {"rows": posted(2)["rows"]})
            assert (found.status_code, found.json()["error"]["code"]) == (409, "unusable_posterior")
            assert "was made from the strategy" in found.json()["error"]["message"]
        assert served.post("/v1/clients/h1/predict", {"rows": posted(2)["rows"]}, who="h1").status_code == 200


def test_a_damaged_posterior_is_never_used(served: Served) -> None:
    served.post("/v1/clients/h1/personalize", posted(), who="h1")
    data = bytearray(served.get("/v1/clients/h1/posterior", who="h1").content)
    data[-7] ^= 1
    with closing(database.connect(served.service.folder)) as store:
        clients.put(store, row(), bytes(data))
    found = served.post("/v1/clients/h0/predict", {"rows": posted(1)["rows"]})
    assert found.status_code == 409
    assert "was altered after it was written" in found.json()["error"]["message"]


def test_one_server_owns_a_store(tmp_path: Path) -> None:
    with database.owned(tmp_path), pytest.raises(ConfigError, match="another server holds the store"), database.owned(tmp_path):
        pass
    with database.owned(tmp_path):
        pass


def test_a_file_that_is_no_store_is_refused(tmp_path: Path) -> None:
    (tmp_path / database.FILE).write_bytes(b"something else" * 100)
    with pytest.raises(ArtifactError, match=r"is no store .*restore its backup, or choose another --store"):
        database.connect(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="could not open the store"):
        database.connect(tmp_path / "file")


def test_a_store_of_another_version_is_refused(tmp_path: Path) -> None:
    with closing(database.connect(tmp_path)) as store:
        store.execute(f"PRAGMA user_version = {database.VERSION + 1}")
    with pytest.raises(ArtifactError, match=f"is a store of version {database.VERSION + 1}, this library reads {database.VERSION}"):
        database.connect(tmp_path)


def test_the_store_is_for_its_owner_alone(served: Served) -> None:
    served.post("/v1/clients/h0/personalize", posted())
    assert {path.stat().st_mode & 0o077 for path in served.service.folder.iterdir()} == {0}


def test_the_bytes_of_a_posterior_are_its_file(outcome_strategy: PersonalStrategy, tmp_path: Path) -> None:
    given = posted()
    model = outcome_strategy.personalize({name: [item[name] for item in given["rows"]] for name in ("age", "sex")}, given["labels"])
    model.save(tmp_path / "p")
    assert (tmp_path / "p").read_bytes() == model.to_bytes()
    again = personal_from_bytes(model.to_bytes(), outcome_strategy)
    assert again.source is outcome_strategy
    assert again.to_bytes() == model.to_bytes()
