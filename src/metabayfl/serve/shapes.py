"""The answers' shapes, for the OpenAPI document; answers are built as plain dicts and not checked again while serving."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict


class Shape(BaseModel):
    """A JSON object with these fields and no others."""

    model_config = ConfigDict(extra="forbid")


class Told(Shape):
    code: str
    message: str


class Refused(Shape):
    """Every refusal."""

    error: Told


class Prediction(Shape):
    """One row's answer; in regression ``label``, the uncertainties and ``interval`` are objects by target. ``case`` is kept for a person."""

    label: str | dict[str, float]
    probabilities: dict[str, float] | None = None
    total: float | dict[str, float]
    aleatoric: float | dict[str, float]
    epistemic: float | dict[str, float]
    interval: dict[str, tuple[float, float]] | None = None
    set: list[str] | None = None
    novel: bool
    refer: bool
    case: str | None = None


class Predictions(Shape):
    """Answers in the order of the rows; a case is referred if it is novel or its total uncertainty is above ``threshold`` (null: any).

    ``set`` and ``interval`` hold the truth with probability 0.9: ``guaranteed`` by cases with known answers, else by the model's word.
    """

    predictions: list[Prediction]
    threshold: float | None
    guaranteed: bool
    version: int
    warning: str | None = None


class ClientState(Shape):
    """A client's posterior: its version grows by one with every change, its digest is the SHA-256 of the posterior's file."""

    client: str
    digest: str
    version: int
    samples: int
    threshold: float | None
    made: str
    updated: str
    drift: str | None
    novelty_rate: float


class Changed(ClientState):
    """A posterior after a change; ``applied`` is false where the same request had been applied before."""

    applied: bool


class Labelled(Changed):
    """A posterior after a case's label, with what it said of the case before and says now."""

    case: str
    before: Prediction | None = None
    after: Prediction | None = None


class Case(Shape):
    case: str
    row: Any
    answer: Prediction
    version: int
    made: str
    label: Any
    labelled: str | None


class Cases(Shape):
    """The newest first; ``waiting`` counts all that wait."""

    client: str
    waiting: int
    cases: list[Case]


class Bin(Shape):
    """Answers whose confidence lies between ``low`` and ``high``; in regression the share of truths within the central interval of level ``high``."""

    low: float
    high: float
    count: int
    confidence: float | None
    accuracy: float | None


class Reliability(Shape):
    """The reliability diagram from labels that came after the prediction; ``error`` is the expected calibration error."""

    client: str
    kind: str
    feedback: int
    bins: list[Bin]
    error: float | None
    accuracy: float | None
    confidence: float | None


class Point(Shape):
    """Means over the predictions of a span that begins at ``at``."""

    at: str
    predictions: int
    referred: int
    novel: int
    total: float
    aleatoric: float
    epistemic: float


class History(Shape):
    client: str
    step_minutes: int
    points: list[Point]


class FeedbackItem(Shape):
    """One label against the answer of the posterior that had not seen it."""

    at: str
    version: int
    truth: Any
    answer: Any
    confidence: float
    correct: float
    log_probability: float
    total: float
    aleatoric: float
    epistemic: float
    referred: bool


class FeedbackList(Shape):
    client: str
    feedback: list[FeedbackItem]


class Alarm(Shape):
    """Something that a person should know: ``kind`` is calibration, drift or novelty; ``at`` is when it was seen, if that is known."""

    kind: str
    message: str
    at: str | None
    value: float | None


class Alarms(Shape):
    client: str
    alarms: list[Alarm]


class ClientSummary(Shape):
    """One line of the overview; the share of the last day's predictions that were referred, and how feedback compares with confidence."""

    client: str
    samples: int
    version: int
    updated: str | None
    waiting: int
    predictions_day: int
    referred_day: float | None
    novel_day: float | None
    feedback: int
    accuracy: float | None
    confidence: float | None
    alarms: int


class Overview(Shape):
    strategy: str
    kind: str
    clients: list[ClientSummary]


class Bearer(Shape):
    """Whose token a request carries; ``client`` is null for the operator's."""

    client: str | None
    operator: bool


class StrategyFacts(Shape):
    """What is served: ``example`` is a row in the form that requests take."""

    digest: str
    algorithm: str
    kind: str
    form: str
    classes: list[str]
    targets: list[str]
    features: list[dict[str, Any]]
    input_shape: list[int]
    layout: str
    example: Any
    limits: dict[str, float]


class Health(Shape):
    status: str
