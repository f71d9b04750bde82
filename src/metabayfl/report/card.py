"""The model card: what the strategy of a study is, how it came about, how well it serves whom, and where its limits are (Mitchell et al. 2019).

Every sentence follows from a number in the study's files; where a file does not know, the card does not say. The card is a list of parts, which
:mod:`metabayfl.report.card_files` writes as Markdown and as a section of the page.
"""

from __future__ import annotations

from collections.abc import Callable

from metabayfl.report.card_figures import calibration, evaluation, worst
from metabayfl.report.card_origin import data, details, protection, training, use
from metabayfl.report.card_part import Part, shipped
from metabayfl.report.limits import limits
from metabayfl.report.sections import Study

PARTS: tuple[Callable[[Study], Part], ...] = (details, use, data, training, protection, evaluation, calibration, worst)


def card(study: Study) -> tuple[Part, ...]:
    """All parts that say something, in the order of the convention.

    Raises:
        KeyError: if ``study.summary`` does not say what the strategy is ``about``.
    """
    parts = (*(part(study) for part in PARTS), Part("Limits", sentences=limits(study, shipped(study))))
    return tuple(part for part in parts if part.facts or part.grid or part.sentences)
