"""What the page says about each picture, for a reader who knows neither federated learning nor Bayes."""

from __future__ import annotations

from typing import NamedTuple


class Words(NamedTuple):
    """A section's heading, what is shown, and how to read it."""

    heading: str
    shown: str
    reading: str


TABLE = Words(
    "How good are the predictions?",
    "Clients that took no part in training got the strategy, adapted it on a few samples of their own, and were asked about their other samples.",
    "Mean ± standard deviation over seeds. A star marks the best mean of a column; a lead smaller than the ± may be chance.",
)
COST = Words(
    "What does it cost?",
    "Bytes of the serialised messages of one client in one round, and the time of one client at work.",
    "Times are medians over clients on the machine that ran the study: compare them with each other rather than with another machine's.",
)
PROMISES = Words(
    "Do sets and intervals keep their promise?",
    "Every held-out client got sets of classes, or intervals, that should hold the truth in nine of ten cases, from its own few samples and what the "
    "validation clients saw.",
    "A small set that keeps its promise is worth more than a large one. The worst client's share is partly chance where test samples are few.",
)
LEARNING = Words(
    "How did training go?",
    "After every few rounds, clients that are neither trained on nor scored here adapt the current strategy; the line is their mean surprise (NLL).",
    "Lower is better, and a line that rises again shows a strategy fitting its training clients too closely. The best round is the one kept.",
)
TRAINING_LOSS = Words(
    "Training loss",
    "The loss that each algorithm minimises on its training clients, round by round.",
    "Algorithms minimise different losses, so compare the shapes of the lines and not their heights.",
)
RELIABILITY = Words(
    "Can the stated confidence be believed?",
    "Predictions are sorted into 15 bins by their stated confidence. Each bar is the share that was right; its dot stands at the mean confidence.",
    "On the dashed diagonal confidence is deserved; dots below it are overconfident, above it too modest. Large dots and tall small bars show "
    "where most predictions are; a small dot may be chance.",
)
CLIENTS = Words(
    "Is every client served well?",
    "One dot is one held-out client, sorted from its algorithm's lowest accuracy to its highest; all seeds together.",
    "The solid line is the mean and the dotted line the mean of the worst tenth. A long tail to the left: some clients pay for the average.",
)
UNCERTAINTY = Words(
    "Does the model know when it does not know?",
    "Total uncertainty (entropy, in nats) of right predictions, wrong ones, and samples of classes that the client never showed the model.",
    "0 is certainty. A good model is certain where it is right, less so where it errs or has seen nothing alike. Hills are drawn equally high; "
    "lines mark medians.",
)
EPISTEMIC = Words(
    "Uncertainty that more data would remove",
    "The epistemic part alone (mutual information, in nats) for the algorithms that have one: how far plausible models disagree.",
    "New classes should stand out here, since the client's samples say nothing of them.",
)
REFERRAL = Words(
    "What if the doubtful cases go to a person?",
    "The least certain cases are referred to a person, from left to right ever more of them; the line is the accuracy of those that the model keeps.",
    "A line that rises fast belongs to a model whose doubts are well placed: few referrals buy much accuracy.",
)
TRADEOFF = Words(
    "Quality against bytes",
    "What one client sends and receives in a round, on a logarithmic axis, against its surprise (NLL) after adapting.",
    "Down and to the left is better. The thin bars are ± one standard deviation over seeds; what sends nothing stands at the left edge.",
)
POINTS = Words(
    "Predicted against true",
    "Test samples of held-out clients, of the first seed: dots are predictions, bars their 90 % intervals.",
    "On the dashed diagonal the prediction is exact. About nine in ten bars should cross it, and bars should be short.",
)
COVERAGE = Words(
    "Can the intervals be believed?",
    "How many true values lie inside intervals that promise to hold 10 to 95 % of them.",
    "On the dashed diagonal the promise is kept. Below it the model is overconfident, above it too cautious.",
)
CLIENT_ERRORS = Words(
    "Is every client served well?",
    "One dot is one held-out client's root mean squared error (RMSE), sorted from its algorithm's lowest to its highest; all seeds together.",
    "The solid line is the mean and the dotted line the mean of the worst tenth. A long tail to the right means that some clients are served badly.",
)
CARD = Words(
    "Model card",
    "What the strategy in strategy.safetensors is, where it comes from, how well it serves whom, and what this study cannot show.",
    "The same text is in model_card.md, to hand on with the strategy.",
)
NO_CARD = "An older metabayfl wrote summary.json, without what a card needs: run the study again with --resume, which repeats no training."
APART = "These studies did not have the same task, as far as their files tell, so no figure is marked as the best."
EMPTY = "Nothing was kept for this picture."
METHOD = (
    "Clients are split, not only samples: training, validation and held-out clients are disjoint. Everything that was chosen was chosen on "
    "validation clients. Uncertainties and NLL are in nats. Calibration error uses 15 equal-width bins over all test samples. Nothing on "
    "this page is loaded from elsewhere."
)

ALGORITHMS = {
    "local": "Every client trains alone on its few samples; nothing is sent.",
    "fedavg": "One common model, the average of what the clients train. It does not adapt to a new client.",
    "fedprox": "FedAvg whose clients are held near the common model while they train.",
    "fedavg_ft": "FedAvg, then each client trains the whole net further on its own samples.",
    "fedavg_head_ft": "FedAvg, then each client trains the last layer further on its own samples.",
    "fedadam": "FedAvg with the Adam rule at the server.",
    "fedyogi": "FedAvg with the Yogi rule at the server.",
    "fedadagrad": "FedAvg with the Adagrad rule at the server.",
    "maml": "Learns a starting point from which a few gradient steps fit a client (FedMeta with MAML).",
    "meta_sgd": "MAML that also learns how far to step, for every weight apart.",
    "reptile": "Moves a starting point towards where clients end up after training.",
    "per_fedavg": "FedAvg of a starting point that is good after a step on the client's own samples.",
    "mean_field": "Learns a distribution over all weights, which each client narrows by a few steps.",
    "meta_bayfl": "Learns a compact strategy from which a client builds a Bayesian model of its own in closed form, without training.",
    "meta_bayfl_published": "Meta-BayFL as its authors' code does it: variational last layers, averaged over clients.",
}
"""One sentence on each algorithm, by name in the registry."""
