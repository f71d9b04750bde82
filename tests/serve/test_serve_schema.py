"""Requests made from the OpenAPI document, fitting and not: none ends in a 5xx, and every answer is as the document says."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings

pytest.importorskip("schemathesis")

import schemathesis
from schemathesis import checks as known
from schemathesis.specs.openapi import checks as openapi
from served import Served, posted

CHECKS = [known.not_a_server_error, openapi.status_code_conformance, openapi.content_type_conformance, openapi.response_schema_conformance]

EXAMPLES = 15
"""Requests an endpoint and way of making them."""

pytestmark = pytest.mark.slow


@pytest.fixture
def learned(served: Served) -> Served:
    served.post("/v1/clients/h0/personalize", {**posted(), "refer_share": 1.0})
    served.post("/v1/clients/h0/predict", {"rows": posted(3, seed=2)["rows"]})
    return served


def send(served: Served, case: Any, who: str, path: dict[str, str]) -> Any:
    """The case as it was made, but on this client and with this token."""
    case.path_parameters = {**case.path_parameters, **{name: value for name, value in path.items() if name in case.path_parameters}}
    case.headers = {**(case.headers or {}), **served.headers(who)}
    words = case.as_transport_kwargs(base_url="http://server")
    body = {"content": words["data"]} if words.get("data") is not None else {"json": words["json"]} if "json" in words else {}
    headers = {name: value if isinstance(value, (str, bytes)) else str(value) for name, value in words["headers"].items()}
    return served.ask(words["method"], words["url"], params=words.get("params"), headers=headers, **body)


@pytest.mark.parametrize("mode", list(schemathesis.GenerationMode), ids=lambda mode: mode.value)
@pytest.mark.parametrize("who", ["h0", ""], ids=["client", "operator"])
def test_no_request_ends_in_a_5xx_and_answers_are_as_documented(learned: Served, mode: Any, who: str) -> None:
    document = learned.get("/openapi.json").json()
    names = [item["case"] for item in learned.get("/v1/clients/h0/cases").json()["cases"]]
    operations = [found.ok() for found in schemathesis.openapi.from_dict(document).get_all_operations()]
    seen: set[int] = set()
    for operation in operations:
        if mode is schemathesis.GenerationMode.NEGATIVE and not (operation.body or operation.query):
            continue  # nothing that could be wrong

        @given(case=operation.as_strategy(generation_mode=mode))
        @settings(
            max_examples=EXAMPLES, derandomize=True, database=None, deadline=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck)
        )
        def answered(case: Any) -> None:
            answer = send(learned, case, who, {"client": "h0", "case": names[len(seen) % len(names)]})
            seen.add(answer.status_code)
            assert answer.status_code < 500, answer.text
            case.validate_response(answer, checks=CHECKS)

        answered()
    assert len(operations) == 17
    assert 200 in seen or mode is schemathesis.GenerationMode.NEGATIVE
