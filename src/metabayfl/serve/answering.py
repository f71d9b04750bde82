"""Predictions, and the referred cases among them."""

from __future__ import annotations

from typing import Any

from metabayfl.personal import PersonalModel
from metabayfl.presentation import PersonalPrediction
from metabayfl.serve import answers, cases, history, meters, requests
from metabayfl.serve.problems import problem
from metabayfl.serve.requests import Inputs
from metabayfl.serve.service import LOG, Service, minute, now

INLINE_ROWS = 16
"""So many rows are predicted at once in less time than a worker thread takes to be woken."""


async def predict(service: Service, client: str, body: bytes) -> dict[str, Any]:
    """Answer the rows in a body; referred ones are kept for a person unless ``keep`` is false."""
    table = requests.document(body, {"rows", "keep"})
    given, keep = requests.inputs(service.source.schema, table, service.limits.rows), requests.flag(table, "keep", default=True)
    held = await service.model(client)
    prediction = await _predicted(service, held.model, given)
    _count(service, client, prediction)
    found = answers.items(prediction)
    answer = {"predictions": found, "threshold": answers.finite(prediction.threshold), "guaranteed": prediction.guaranteed, "version": held.version}
    return {**answer, **await _keep(service, client, given, found, held.version)} if keep and prediction.referred else answer


async def _predicted(service: Service, model: PersonalModel, given: Inputs) -> PersonalPrediction:
    """Predictions of few rows take turns, one in each round of the event loop. Whatever else is due goes in between: a change of a posterior, which
    goes through several rounds, never waits in each of them for all the predictions that came meanwhile."""
    if len(given.rows) > INLINE_ROWS:
        return await service.work(model.predict, given.x)
    async with service.turn:
        return model.predict(given.x)


def _count(service: Service, client: str, prediction: PersonalPrediction) -> None:
    sums = answers.sums(service.source.schema, prediction)
    meters.predicted(service.meters, sums)
    history.tally(service.tally, client, minute(now()), sums)


async def _keep(service: Service, client: str, given: Inputs, found: list[dict[str, Any]], version: int) -> dict[str, Any]:
    """Put referred rows into the list of cases. A store that takes no more stops no prediction: the answer says that they were not kept."""
    which = [at for at, item in enumerate(found) if item["refer"]]
    new = [
        cases.Case(name, client, given.rows[at], found[at], version, now(), None, None)
        for at, name in zip(which, cases.new_names(len(which)), strict=True)
    ]
    try:
        await service.writer.write(lambda connection: cases.add(connection, new, service.limits.cases))
    except Exception as error:  # whatever it is, the prediction stands
        LOG.warning("%d referred cases were not kept: %s", len(new), error)
        service.meters.unkept.inc(len(new))
        return {"warning": f"{len(new)} referred cases were not kept for a person: {problem(error).message}"}
    return {"predictions": [{**item, **case} for item, case in zip(found, _names(len(found), which, new), strict=True)]}


def _names(count: int, which: list[int], new: list[cases.Case]) -> list[dict[str, str]]:
    names = {at: {"case": case.name} for at, case in zip(which, new, strict=True)}
    return [names.get(at, {}) for at in range(count)]
