"""Requests that are refused: every one by a status, a code and a sentence that names the field, and none by a 5xx."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from served import Served, posted, serve

from metabayfl.errors import ConfigError
from metabayfl.personal import PersonalStrategy
from metabayfl.serve.gate import Rates
from metabayfl.serve.options import Address, Limits
from metabayfl.serve.tokens import NAME
from tiny import digits

ROW = {"age": 50.0, "sex": "f"}
PREDICT, UPDATE, MAKE = (f"/v1/clients/h0/{word}" for word in ("predict", "update", "personalize"))


@pytest.fixture
def made(served: Served) -> Served:
    assert served.post(MAKE, {**posted(), "refer_share": 1.0}).status_code == 200
    return served


def told(answer: Any, status: int) -> str:
    assert answer.status_code == status, answer.text
    body = answer.json()
    assert body.keys() == {"error"}
    assert body["error"].keys() == {"code", "message"}
    message: str = body["error"]["message"]
    assert message
    assert "\n" not in message
    return message


@pytest.mark.parametrize(("body", "status", "message"), [
    (b"", 400, "the body is no JSON"),
    (b"{", 400, "the body is no JSON"),
    (b"\xff\xfe", 400, "the body is no JSON"),
    (b'{"rows": [{"age": NaN, "sex": "f"}]}', 400, "NaN is not JSON"),
    (b'{"rows": [{"age": Infinity, "sex": "f"}]}', 400, "Infinity is not JSON"),
    (b"[" * 100_000, 400, "the body is no JSON"),
    (b'{"rows": ' + b"9" * 5000 + b"}", 400, "the body is no JSON"),
    (b"[]", 400, "the body is a JSON list, expected an object with the fields keep, rows"),
    (b"null", 400, "the body is a JSON null"),
    (b"{}", 422, "field 'rows' is missing: expected a list"),
    (b'{"rows": []}', 422, "field 'rows': given an empty list"),
    (b'{"rows": {"age": [50]}}', 422, "field 'rows': given a object"),
    (b'{"rows": [1]}', 422, "row 0 is a number, expected an object {column: value}"),
    (b'{"row": []}', 422, "the field 'row' is not known here: expected keep, rows"),
    (b'{"rows": [{"age": 50}]}', 422, "feature 'sex' is missing in row 0: give its value, or null"),
    (b'{"rows": [{"age": "old", "sex": "f"}]}', 422, "feature 'age': given text 'old' in row 0, expected a number"),
    (b'{"rows": [{"age": [50], "sex": "f"}]}', 422, "feature 'age': given a list in row 0, expected one value"),
    (b'{"rows": [{"age": {"a": 1}, "sex": "f"}]}', 422, "feature 'age': given a object in row 0"),
    (b'{"rows": [{"age": 1e999, "sex": "f"}]}', 422, "feature 'age': given a number beyond all bounds in row 0"),
    (b'{"rows": [{"age": ' + b"9" * 400 + b', "sex": "f"}]}', 422, "feature 'age': given a number beyond all bounds in row 0"),
    (b'{"rows": [{"age": 1e6, "sex": "f"}]}', 422, "Is it in another unit?"),
    (b'{"rows": [{"age": 50, "sex": 1}]}', 422, "feature 'sex': given the number 1 in row 0, expected one of the texts 'f', 'm'"),
    (b'{"rows": [{"age": 50, "sex": "f", "note": []}]}', 422, "column 'note': given a list in row 0, expected one value"),
    (b'{"rows": [{"age": 50, "sex": "' + b"f" * 1001 + b'"}]}', 422, "feature 'sex': given a text of 1001 characters in row 0"),
    (json.dumps({"rows": [{str(at): at for at in range(23)}]}).encode(), 422, "row 0 has 23 columns, expected age, sex and at most 20 others"),
    (b'{"rows": [{"age": 50, "sex": "f"}], "keep": 1}', 422, "field 'keep': given a number, expected true or false"),
])  # fmt: skip
def test_rows_that_cannot_be_read(made: Served, body: bytes, status: int, message: str) -> None:
    assert message in told(made.ask("POST", PREDICT, content=body, headers=made.headers()), status)


@pytest.mark.parametrize(("change", "message"), [
    ({"labels": None}, "field 'labels': given a null"),
    ({"labels": ["ill", "well"]}, "field 'labels': 2 labels for 1 rows"),
    ({"labels": ["dead"]}, "given class 'dead' in row 0, expected one of ill, well"),
    ({"labels": [None]}, "given class None in row 0"),
    ({"labels": [["ill"]]}, "field 'labels': given a list in row 0"),
    ({"refer_share": 2}, "field 'refer_share': given a number, expected a number from 0 to 1"),
    ({"refer_share": True}, "field 'refer_share': given a true or false"),
    ({"replace": "yes"}, "field 'replace': given a text, expected true or false"),
])  # fmt: skip
def test_samples_that_cannot_be_learned(served: Served, change: dict[str, Any], message: str) -> None:
    assert message in told(served.post(MAKE, {"rows": [ROW], "labels": ["ill"], **change}), 422)
    assert told(served.get("/v1/clients/h0"), 404).startswith("h0 has no posterior yet")


@pytest.mark.parametrize(("labels", "message"), [
    (["2"], "field 'labels': row 0 is no list of 1 numbers (dose)"),
    ([[1, 2]], "field 'labels': row 0 is no list of 1 numbers (dose)"),
    ([1e9], "dose in row 0 is 1e+09"),
    ([1e200], "Is it in another unit?"),
    ([True], "field 'labels': row 0 is no list of 1 numbers (dose)"),
])  # fmt: skip
def test_numbers_that_cannot_be_learned(dose_strategy: PersonalStrategy, tmp_path: Path, labels: list[Any], message: str) -> None:
    with serve(dose_strategy, tmp_path) as served:
        assert message in told(served.post(MAKE, {"rows": [ROW], "labels": labels}), 422)


@pytest.mark.parametrize(("rows", "message"), [
    ([[1, 2], [3]], "field 'rows': the lists in it differ in length or depth"),
    ([[[1.0]]], "inputs: given shape (1, 1, 1)"),
    ([["a"]], "inputs: given values of type"),
    ([None], "inputs: given values of type object"),
    ([{"a": 1}], "inputs: given values of type object"),
    (np.full((1, 8, 8), 1e5).tolist(), "inputs: given pixel values"),
    ([[[10**400] * 8] * 8], "inputs: given values of type object"),
])  # fmt: skip
def test_arrays_that_cannot_be_read(digits_strategy: PersonalStrategy, tmp_path: Path, rows: Any, message: str) -> None:
    x, y = digits(0, 10)
    with serve(digits_strategy, tmp_path) as served:
        served.post(MAKE, {"rows": x.tolist(), "labels": y})
        assert message in told(served.post(PREDICT, {"rows": rows}), 422)


def test_limits_on_sizes(outcome_strategy: PersonalStrategy, tmp_path: Path) -> None:
    with serve(outcome_strategy, tmp_path, Limits(rows=15, samples=16, body_bytes=2000)) as served:
        assert "20 given, this server takes at most 15 in a request" in told(served.post(MAKE, posted(20)), 413)
        big = {"rows": [{**ROW, "note": "x" * 3000}]}
        assert "the body is larger than 2,000 bytes" in told(served.post(PREDICT, big), 413)
        served.post(MAKE, posted(14))
        assert "h0 would have 17 samples, this server keeps at most 16" in told(served.post(UPDATE, posted(3)), 409)
        assert served.get("/v1/clients/h0").json()["samples"] == 14


def test_a_body_without_a_length_is_counted_as_it_comes(outcome_strategy: PersonalStrategy, tmp_path: Path) -> None:
    taken = []

    async def endless() -> Any:
        while True:
            taken.append(1)
            yield b" " * 1000

    with serve(outcome_strategy, tmp_path, Limits(body_bytes=5000)) as served:
        told(served.ask("POST", PREDICT, content=endless(), headers=served.headers()), 413)
    assert len(taken) <= 7


def test_a_body_that_does_not_come_is_not_waited_for(outcome_strategy: PersonalStrategy, tmp_path: Path) -> None:
    import asyncio

    async def stuck() -> Any:
        yield b"{"
        await asyncio.sleep(30)

    with serve(outcome_strategy, tmp_path, Limits(body_seconds=0.05)) as served:
        scope = {"type": "http", "method": "POST", "path": PREDICT, "raw_path": PREDICT.encode(), "query_string": b"", "http_version": "1.1",
                 "headers": [(name.lower().encode(), value.encode()) for name, value in served.headers().items()], "scheme": "http",
                 "root_path": "", "client": None, "server": None}  # fmt: skip
        sent: list[Any] = []

        async def receive() -> Any:
            if not sent:
                await asyncio.sleep(0)
            await asyncio.sleep(30)

        async def send(message: Any) -> None:
            sent.append(message)

        served.runner.run(served.app(scope, receive, send))
        assert sent[0]["status"] == 408
        assert json.loads(sent[1]["body"])["error"]["code"] == "too_slow"


def test_a_token_that_asks_too_often_waits(outcome_strategy: PersonalStrategy, tmp_path: Path) -> None:
    with serve(outcome_strategy, tmp_path, Limits(rate=0.001, burst=3)) as served:
        answers = [served.get("/v1/strategy") for _ in range(5)]
        assert [answer.status_code for answer in answers] == [200, 200, 200, 429, 429]
        assert int(answers[3].headers["retry-after"]) > 900
        assert served.get("/v1/strategy", who="h1").status_code == 200


def test_a_bucket_fills_at_its_rate() -> None:
    time = [0.0]
    rates = Rates(2.0, 3, lambda: time[0])
    assert [rates.wait("a") for _ in range(4)] == [0.0, 0.0, 0.0, 0.5]
    time[0] = 0.25
    assert rates.wait("a") == pytest.approx(0.25)
    time[0] = 0.5
    assert [rates.wait("a"), rates.wait("a")] == [0.0, 0.5]
    time[0] = 100.0
    assert [rates.wait("a") for _ in range(4)] == [0.0, 0.0, 0.0, 0.5]


@pytest.mark.parametrize(("path", "message"), [
    ("/v1/clients/h0/cases?most=0", "the parameter most is '0', expected a whole number from 1 to 10000"),
    ("/v1/clients/h0/cases?most=x", "the parameter most is 'x'"),
    ("/v1/clients/h0/cases?waiting=1", "the parameter waiting is '1', expected true or false"),
    ("/v1/clients/h0/history?minutes=99999999", "expected a whole number from 1 to 43200"),
    ("/v1/clients/h0/history?hours=3", "the parameter 'hours' is not known here: expected minutes"),
])  # fmt: skip
def test_parameters_that_are_not_known(made: Served, path: str, message: str) -> None:
    assert message in told(made.get(path), 422)


def test_addresses_and_methods_that_there_are_not(made: Served) -> None:
    assert "there is nothing at this address" in told(made.get("/v1/nothing"), 404)
    assert "there is nothing at this address" in told(made.get("/../../etc/passwd"), 404)
    assert "takes another method" in told(made.get(PREDICT), 405)
    assert "h0 has no case 'abc'" in told(made.post("/v1/clients/h0/cases/abc/label", {"label": "ill"}), 404)
    assert "Idempotency-Key" in told(made.post(UPDATE, posted(1), key="a b"), 422)


@pytest.mark.parametrize("name", ["", ".", "-a", "a b", "a/b", "a" * 65, "ä"])
def test_names_that_cannot_stand_in_an_address(name: str) -> None:
    assert NAME.fullmatch(name) is None


def test_options_that_make_no_sense(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="the limit rows is 0, expected a number above 0"):
        Limits(rows=0)
    with pytest.raises(ConfigError, match="TLS needs both --tls-cert and --tls-key"):
        Address(certificate=tmp_path)
    with pytest.raises(ConfigError, match="are no certificate with its key"):
        Address(certificate=tmp_path / "a", key=tmp_path / "b")


def test_what_the_schema_has_a_rule_for_is_no_error(made: Served) -> None:
    """A missing number is filled, a category that is missing or was never seen has a column of its own."""
    rows = [{"age": None, "sex": "f"}, {"age": 50, "sex": None}, {"age": 50, "sex": "\ud800"}, {"age": 50, "sex": "x", "other": "bed 4"}]
    found = made.ask("POST", PREDICT, content=json.dumps({"rows": rows}), headers=made.headers())
    assert found.status_code == 200, found.text
    assert len(found.json()["predictions"]) == 4
    assert made.get("/v1/clients/h0/cases").json()["waiting"] == 4
