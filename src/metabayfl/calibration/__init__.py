"""Guarantees from cases with known answers: prediction sets, referral, novelty, and temperature scaling as the baseline."""

from metabayfl.calibration.cases import Cases, cross_fit, judge, score, strangeness
from metabayfl.calibration.limits import By, Known, novelty_limit, referral_for_error, referral_for_share, set_limits
from metabayfl.calibration.population import counts, table, template
from metabayfl.calibration.sets import class_sets, interval_half_width

__all__ = [
    "By",
    "Cases",
    "Known",
    "class_sets",
    "counts",
    "cross_fit",
    "interval_half_width",
    "judge",
    "novelty_limit",
    "referral_for_error",
    "referral_for_share",
    "score",
    "set_limits",
    "strangeness",
    "table",
    "template",
]
