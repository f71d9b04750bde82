"""The first half of a model card: what the strategy is, what it is for, and how it came about."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from metabayfl.report import words
from metabayfl.report.card_part import Part, shipped, span
from metabayfl.report.sections import Study

SHOWN = 40
"""Names of inputs or classes that are written out; more are counted."""
COUNTED = {"examples": "by their examples", "uniform": "all alike"}
ROLES = ("training", "validation", "held-out")


def details(study: Study) -> Part:
    """What the strategy is."""
    about = study.summary["about"]["strategy"]
    name = str(about["algorithm"])
    model = ", ".join(_setting(key, value) for key, value in about["model"].items() if key != "name")
    facts = (
        ("algorithm", f"{name}. {words.ALGORITHMS[name]}" if name in words.ALGORITHMS else name),
        ("its arguments", ", ".join(_setting(key, value) for key, value in about["arguments"].items()) or "all as they are by default"),
        ("model", f"{about['model']['name']} ({model})" if model else str(about["model"]["name"])),
        ("size", f"{about['numbers']:,} numbers in {about['bytes']:,} bytes, codec {about['codec']}"),
        (
            "carries",
            "sums over the validation clients' cases, for sets, referral and novelty" if about["calibrated"] else "no case of a validation client",
        ),
        ("digest", f"sha256 {about['digest']}"),
        ("seed", str(about["seed"])),
        ("versions", ", ".join(f"{key} {value}" for key, value in study.summary["versions"].items())),
    )
    return Part("Model details", facts)


def _setting(name: str, value: object) -> str:
    return f"{name} = {value}"


def use(study: Study) -> Part:
    """What it was made for, and what it takes and gives."""
    inputs = study.summary["about"]["inputs"]
    outputs = inputs["classes"] or inputs["targets"]
    sizes = sorted({size for entry in study.entries(shipped(study)) for size in entry["clients"].get("support", ())})
    own = f"{span(sizes[0], sizes[-1])} labelled samples" if sizes else "labelled samples"
    what = "the probability of each class" if inputs["classes"] else "each target's value and an interval around it"
    sentence = (
        f"A client that took no part in training adapts the strategy on {own} of its own, and the model that it gets predicts {what}. "
        "Predictions marked 'refer' are for a person to decide."
    )
    facts = (
        ("inputs", _inputs(inputs)),
        ("classes" if inputs["classes"] else "targets", _names(outputs)),
    )
    return Part("Intended use", facts, sentences=(sentence,))


def _inputs(inputs: Mapping[str, Any]) -> str:
    if inputs["form"] == "table":
        return _names([_feature(item) for item in inputs["features"]])
    return "arrays of " + " x ".join(str(size) for size in inputs["shape"])


def _feature(feature: Mapping[str, Any]) -> str:
    names = feature["categories"]
    return f"{feature['name']} (a category: {_names(names)})" if names else str(feature["name"])


def _names(names: Sequence[object]) -> str:
    rest = len(names) - SHOWN
    return ", ".join(str(name) for name in names[:SHOWN]) + (f" and {rest} more" if rest > 0 else "")


def data(study: Study) -> Part:
    """Whose data trained, chose and judged it, seed by seed."""
    seeds = study.summary["about"]["data"]
    head = ("seed", "clients", "how many", "samples", "samples of one")
    rows = tuple(_group(one["seed"], role, one["clients"][role]) for one in seeds for role in ROLES)
    facts = (
        ("study", str(study.summary["title"])),
        ("source", seeds[0]["name"]),
        *((f"fingerprint, seed {one['seed']}", one["fingerprint"]) for one in seeds),
    )
    notes = dict.fromkeys(note for one in seeds for note in one["notes"])
    return Part("Data", facts, (head, *rows), ("Training, validation and held-out clients are disjoint; a seed decides who is which.", *notes))


def _group(seed: int, role: str, group: Mapping[str, int]) -> tuple[str, ...]:
    return str(seed), role, f"{group['clients']:,}", f"{group['samples']:,}", span(group["fewest"], group["most"])


def training(study: Study) -> Part:
    """How it was trained."""
    about, options = study.summary["about"]["strategy"], study.summary["about"]["training"]
    looked = bool(options["validate_every"]) and bool(study.summary["about"]["data"][0]["clients"]["validation"]["clients"])
    chosen = f"that of round {about['best_round']}, the best on the validation clients" if looked else "the last: no validation client chose it"
    behind = f"; asynchronous, with {_options(options['asynchronous'])}" if options["asynchronous"] else ""
    facts = (
        ("rounds", f"{about['rounds']:,} of at most {options['rounds']:,}, with {options['cohort']:,} clients each at most{behind}"),
        ("strategy kept", chosen),
        ("clients count", COUNTED["uniform" if options["privacy"] else options["weighting"]]),
        ("seeds", f"{len(study.summary['seeds'])} ({_names(study.summary['seeds'])})"),
        ("where", "a simulation in one process: no data went from machine to machine"),
    )
    return Part("Training", facts if about["rounds"] else (("rounds", "none: this algorithm sends nothing"), *facts[3:]))


def protection(study: Study) -> Part:
    """Privacy spent, secure aggregation, defences, and attacks that were simulated."""
    about = study.summary["about"]
    options = about["training"]
    if not about["strategy"]["rounds"]:
        return Part("Privacy and security", (("privacy spent", "none: clients sent nothing"),))
    spent = tuple((f"privacy spent, seed {one['seed']}", _spent(one)) for one in about["privacy"])
    if options["privacy"]:
        spent = (*spent, ("updates clipped to", str(options["privacy"]["clip"])))
    facts = (
        *(spent or (("privacy spent", "none: nothing bounds what the strategy tells of a client that took part"),)),
        ("secure aggregation", _secure(options)),
        ("defence against hostile clients", _options(options["defence"]) if options["defence"] else "none: a plain mean"),
        *((("attack, simulated", _options(options["attack"])),) if options["attack"] else ()),
    )
    return Part("Privacy and security", facts)


def _secure(options: Mapping[str, Any]) -> str:
    """With a privacy budget, its bound on updates counts, and not the one of secure aggregation."""
    if not options["secure"]:
        return "none: the server sees each client's message"
    used = {name: value for name, value in options["secure"].items() if name != "clip" or not options["privacy"]}
    return f"the server sees sums alone ({_options(used)})" + ("" if used["masks"] else "; simulated without masks")


def _spent(one: Mapping[str, Any]) -> str:
    text = f"epsilon {one['spent']:.4g} of {one['budget']:g} at delta {one['delta']:g}, in {one['releases']:,} releases"
    seeded = "; the noise came from the seed: a simulation, which protects nobody" if one["source"] == "seeded" else ""
    return f"{text}, for a client with all its samples ({one['mechanism']} noise, {one['sampling']} sampling){seeded}"


def _options(options: Mapping[str, Any]) -> str:
    return ", ".join(_setting(name, value) for name, value in options.items())
