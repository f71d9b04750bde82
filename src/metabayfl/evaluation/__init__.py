"""How algorithms are judged: held-out clients adapt on their support and are scored on their own test samples."""

from metabayfl.evaluation.calibration import calibrate
from metabayfl.evaluation.heldout import evaluate
from metabayfl.evaluation.membership import Attack, attack, client_losses, likelihood_ratio
from metabayfl.evaluation.pictures import payload
from metabayfl.evaluation.promises import ClientCoverage, Promised, coverage, pooled
from metabayfl.evaluation.scores import ClassScores, ClientScores, HeldOut, RegressionScores
from metabayfl.evaluation.summary import over_seeds, summarise
from metabayfl.evaluation.timing import Timings, timings
from metabayfl.evaluation.validation import validation_loss

__all__ = [
    "Attack",
    "ClassScores",
    "ClientCoverage",
    "ClientScores",
    "HeldOut",
    "Promised",
    "RegressionScores",
    "Timings",
    "attack",
    "calibrate",
    "client_losses",
    "coverage",
    "evaluate",
    "likelihood_ratio",
    "over_seeds",
    "payload",
    "pooled",
    "summarise",
    "timings",
    "validation_loss",
]
