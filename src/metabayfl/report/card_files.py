"""A model card as Markdown, headed as Hugging Face's model cards are, and as a section of the page."""

from __future__ import annotations

import json
import re
from typing import Any

from metabayfl.report import words
from metabayfl.report.card import card
from metabayfl.report.card_part import Grid, Part, shipped
from metabayfl.report.parts import paragraph
from metabayfl.report.sections import Study
from metabayfl.report.svg import NOTHING, Markup, clean, element, escape, join

METRICS = ("accuracy", "rmse", "nll", "brier", "crps", "ece", "coverage_90", "accuracy_at_80_coverage")
"""Figures in the front matter, as ``summary.json`` names them."""

LISTED = 2
"""More sentences than this stand in a list."""

_SPECIAL = re.compile(r"([\\`*{}\[\]<>#|~$]|(?<!\w)_|_(?!\w))")


def markdown(study: Study) -> str:
    """The whole file."""
    title = f"# {_plain(study.summary['title'])}: {_plain(shipped(study))}"
    return "\n\n".join([_front_matter(study), title, *(_part(part) for part in card(study))]) + "\n"


def _part(part: Part) -> str:
    facts = "\n".join(f"- **{_plain(name)}**: {_plain(text)}" for name, text in part.facts)
    paragraphs = [_plain(sentence) for sentence in part.sentences]
    said = "\n".join(f"- {one}" for one in paragraphs) if len(paragraphs) > LISTED else "\n\n".join(paragraphs)
    return "\n\n".join(piece for piece in (f"## {part.heading}", facts, said, _grid(part.grid)) if piece)


def _grid(grid: Grid) -> str:
    lines = ["| " + " | ".join(_plain(cell) for cell in row) + " |" for row in grid]
    return "\n".join([*lines[:1], "|" + " --- |" * len(grid[0]), *lines[1:]]) if grid else ""


def _plain(text: object) -> str:
    """Text that Markdown shows as it is: names come from data."""
    return _SPECIAL.sub(r"\\\1", " ".join(clean(text).split()))


def _front_matter(study: Study) -> str:
    """YAML; every text is a JSON string, which YAML takes as it is, so that no name from data can become anything else."""
    inputs = study.summary["about"]["inputs"]
    fields: dict[str, Any] = {
        "library_name": "metabayfl",
        "tags": ["federated-learning", "personalization", "bayesian", "uncertainty", shipped(study)],
        "metrics": list(_figures(study)),
        "model-index": [{"name": f"{study.summary['title']}-{shipped(study)}", "results": [_result(study, inputs)]}],
    }
    return "\n".join(["---", *_yaml(fields), "---"])


def _yaml(value: Any) -> list[str]:
    """Lines of YAML: nested tables, lists of tables, and JSON for everything else."""
    if isinstance(value, dict):
        return [line for name, item in value.items() for line in _named(name, item)]
    if isinstance(value, list) and any(isinstance(item, dict) for item in value):
        return [("- " if at == 0 else "  ") + line for item in value for at, line in enumerate(_yaml(item))]
    return [json.dumps(_cleaned(value), ensure_ascii=False)]


def _named(name: str, value: Any) -> list[str]:
    lines = _yaml(value)
    nested = isinstance(value, dict) or (isinstance(value, list) and any(isinstance(item, dict) for item in value))
    return [f"{name}:", *(f"  {line}" for line in lines)] if nested else [f"{name}: {lines[0]}"]


def _result(study: Study, inputs: dict[str, Any]) -> dict[str, Any]:
    source = study.summary["about"]["data"][0]
    return {
        "task": {"type": _task(inputs)},
        "dataset": {"name": source["name"], "type": source["name"], "revision": source["fingerprint"]},
        "metrics": [{"type": name, "value": value, "name": f"{name}, held-out clients"} for name, value in _figures(study).items()],
    }


def _task(inputs: dict[str, Any]) -> str:
    """The hub's word for the task, where it has one."""
    if inputs["form"] == "table":
        return f"tabular-{inputs['kind']}"
    return f"image-{inputs['kind']}" if len(inputs["shape"]) == 3 else str(inputs["kind"])


def _figures(study: Study) -> dict[str, float]:
    mean = study.summary["algorithms"][shipped(study)]["mean"]
    return {name: round(mean[name], 6) for name in METRICS if mean.get(name) is not None}


def _cleaned(value: Any) -> Any:
    if isinstance(value, list):
        return [_cleaned(item) for item in value]
    return clean(value) if isinstance(value, str) else value


def card_section(study: Study) -> Markup:
    """The card on the page, or the plain statement that the study's files say too little for one."""
    head = [element("h2", escape(words.CARD.heading)), paragraph(words.CARD.shown, "shown")]
    if "about" not in study.summary:
        return element("section", *head, paragraph(words.NO_CARD, "empty"))
    return element("section", *head, *(_block(part) for part in card(study)), paragraph(words.CARD.reading, "reading"), class_="card")


def _block(part: Part) -> Markup:
    facts = [one for name, text in part.facts for one in (element("dt", escape(name)), element("dd", escape(text)))]
    return join([
        element("h3", escape(part.heading)),
        element("dl", *facts) if facts else NOTHING,
        _said(part.sentences),
        _table(part) if part.grid else NOTHING,
    ])  # fmt: skip


def _said(sentences: tuple[str, ...]) -> Markup:
    if len(sentences) > LISTED:
        return element("ul", *(element("li", escape(sentence)) for sentence in sentences))
    return join(paragraph(sentence) for sentence in sentences)


def _table(part: Part) -> Markup:
    head = element("tr", *(element("th", escape(cell), scope="col") for cell in part.grid[0]))
    body = [element("tr", element("th", escape(row[0]), scope="row"), *(element("td", escape(cell)) for cell in row[1:])) for row in part.grid[1:]]
    inner = element("table", element("caption", escape(part.heading)), element("thead", head), element("tbody", *body))
    return element("div", inner, class_="scroll", tabindex=0, role="region", aria_label=part.heading)
