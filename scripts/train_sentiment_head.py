"""Trains the sentiment head that ships in app/models/assets/sentiment/head.json.

    python -m scripts.train_sentiment_head [--search] [--output FILE]

Data: the graded texts (tweets, film reviews, product reviews, editorials; some twenty ratings
each, from -4 to 4). The head learns how the raters' votes fall below, at and above zero, which
says more than one label. It is judged by labels: a mean within half a point of zero is neutral.
Texts that also stand in the UCI sentences are left out, so that those can judge the head.

How texts are weighted is chosen by leaving out one of the four sources at a time, because the
head will meet texts of other sources (--search prints that); the temperature on held-out fifths,
whole reviews and articles at a time.
"""

import argparse
import json
import re
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scripts import encoder
from scripts.datasets import GRADED, INT8_MODEL, Graded, graded_texts, uci_sentences
from scripts.logistic import Array, fit, softmax
from scripts.quality import brier, calibration_error, macro_f1

LABELS = ("negative", "neutral", "positive")
NEUTRAL_BELOW = 0.5
FOLDS = 5
PENALTY = 0.3
EDITORIAL_WEIGHT = 0.5  # editorials are argument: the raters' agreement is least there


@dataclass(frozen=True, slots=True)
class TrainingSet:
    """classes: 0 negative, 1 neutral, 2 positive; folds: which fold holds a text out."""

    vectors: Array
    classes: NDArray[np.int_]
    votes: Array
    strength: Array
    folds: NDArray[np.int_]
    domains: NDArray[np.str_]


def normalised(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", " ", text.lower()).strip()


def unseen_texts() -> tuple[list[Graded], int]:
    """The graded texts without those of the UCI set, and how many were left out."""
    tested = {normalised(one.text) for one in uci_sentences()}
    graded = graded_texts()
    kept = [one for one in graded if normalised(one.text) not in tested]
    return kept, len(graded) - len(kept)


def classes_of(ratings: Array) -> NDArray[np.int_]:
    return np.where(ratings <= -NEUTRAL_BELOW, 0, np.where(ratings >= NEUTRAL_BELOW, 2, 1))


def training_set(texts: list[Graded]) -> TrainingSet:
    ratings = np.array([one.rating for one in texts])
    classes = classes_of(ratings)
    groups = {name: index for index, name in enumerate(dict.fromkeys(one.group for one in texts))}
    fold_of_group = np.random.default_rng(0).permutation(len(groups)) % FOLDS
    return TrainingSet(
        encoder.embed(encoder.build(), [one.text for one in texts]).astype(np.float64),
        classes,
        np.array([one.votes for one in texts]),
        np.where(classes == 1, 1.0, np.clip(np.abs(ratings), 0.5, 4.0) / 1.5),
        np.array([fold_of_group[groups[one.group]] for one in texts]),
        np.array([one.domain for one in texts]),
    )


def weights_of(data: TrainingSet) -> Array:
    """More for what moved the raters, less for editorials."""
    source: Array = np.where(data.domains == "editorial", EDITORIAL_WEIGHT, 1.0)
    return source * np.sqrt(data.strength)


def held_out_logits(
    data: TrainingSet, folds: NDArray[Any], wanted: Array, weights: Array, penalty: float
) -> Array:
    """Logits of every text from a head that saw nothing of its fold."""
    logits = np.zeros_like(wanted)
    for fold in np.unique(folds):
        rest, held = folds != fold, folds == fold
        theta, bias = fit(data.vectors[rest], wanted[rest], weights[rest], penalty)
        logits[held] = data.vectors[held] @ theta.T + bias
    return logits


def log_loss(logits: Array, classes: NDArray[np.int_], temperature: float) -> float:
    chances = softmax(logits / temperature)[np.arange(len(classes)), classes]
    return float(-np.log(np.maximum(chances, 1e-12)).mean())


def best_temperature(logits: Array, classes: NDArray[np.int_]) -> float:
    """The temperature of least log loss on held-out logits, to a hundredth."""
    candidates = np.arange(0.5, 3.0, 0.01)
    return float(round(min(candidates, key=lambda t: log_loss(logits, classes, t)), 2))


def figures(chances: Array, classes: NDArray[np.int_]) -> dict[str, float]:
    chosen = chances.argmax(axis=1)
    return {
        "texts": len(classes),
        "accuracy": float((chosen == classes).mean()),
        "majority": float(np.bincount(classes).max() / len(classes)),
        "macro_f1": macro_f1(chosen, classes, len(LABELS)),
        "calibration_error": calibration_error(chances, classes),
        "brier": brier(chances, classes),
    }


def search(data: TrainingSet) -> None:
    """Means over the sources left out, of the accuracy over all labels, and of negative against
    positive where the raters were clear."""
    labels, even = np.eye(len(LABELS))[data.classes], np.ones(len(data.classes))
    source = np.where(data.domains == "editorial", EDITORIAL_WEIGHT, 1.0)
    ways = {
        "labels": (labels, even),
        "labels, by strength": (labels, data.strength),
        "votes": (data.votes, even),
        "votes, by strength": (data.votes, data.strength),
        "votes, half editorials": (data.votes, source),
        "votes, half editorials, by root of strength": (data.votes, weights_of(data)),
    }
    for name, (wanted, weights) in ways.items():
        for penalty in (0.1, 0.3, 1.0):
            logits = held_out_logits(data, data.domains, wanted, weights, penalty)
            three, two = _left_out(data, logits)
            line = f"{name}, penalty {penalty}: three-way {three:.4f}, two-way {two:.4f}\n"
            sys.stdout.write(line)
            sys.stdout.flush()


def _left_out(data: TrainingSet, logits: Array) -> tuple[float, float]:
    right = logits.argmax(axis=1) == data.classes
    sided = (logits[:, 2] > logits[:, 0]) == (data.classes == 2)
    sources = [data.domains == name for name in np.unique(data.domains)]
    three = np.mean([right[mine].mean() for mine in sources])
    two = np.mean([sided[mine & (data.classes != 1)].mean() for mine in sources])
    return float(three), float(two)


def train(data: TrainingSet, left_out: int) -> dict[str, Any]:
    weights = weights_of(data)
    logits = held_out_logits(data, data.folds, data.votes, weights, PENALTY)
    temperature = best_temperature(logits, data.classes)
    chances = softmax(logits / temperature)
    theta, bias = fit(data.vectors, data.votes, weights, PENALTY)
    held_out = {"all": figures(chances, data.classes)}
    for domain in dict.fromkeys(data.domains.tolist()):
        mine = data.domains == domain
        held_out[domain] = figures(chances[mine], data.classes[mine])
    return {
        "labels": LABELS,
        "temperature": temperature,
        "bias": [round(float(value), 6) for value in bias],
        "weights": [[round(float(value), 6) for value in row] for row in theta],
        "training": {
            "made_by": "scripts/train_sentiment_head.py",
            "date": time.strftime("%Y-%m-%d", time.gmtime()),
            "model": {"package": INT8_MODEL.requirement, "sha256": INT8_MODEL.sha256},
            "data": {"package": GRADED.requirement, "sha256": GRADED.sha256},
            "texts": dict(zip(LABELS, np.bincount(data.classes).tolist(), strict=True)),
            "left_out_because_in_uci": left_out,
            "neutral": f"mean rating of less than {NEUTRAL_BELOW} either way",
            "penalty": PENALTY,
            "targets": "shares of raters below, at and above zero",
            "weights": "root of |rating| / 1.5, clipped to 0.5..4, neutral 1; editorials half",
            "held_out": {
                name: {key: round(value, 4) for key, value in row.items()}
                for name, row in held_out.items()
            },
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the sentiment head.")
    parser.add_argument("--search", action="store_true", help="show how the settings were chosen")
    parser.add_argument("--output", type=Path, default=encoder.HEAD)
    options = parser.parse_args()
    texts, left_out = unseen_texts()
    data = training_set(texts)
    if options.search:
        search(data)
        return
    head = train(data, left_out)
    options.output.write_text(json.dumps(head) + "\n")
    sys.stdout.write(json.dumps(head["training"], indent=2) + "\n")


if __name__ == "__main__":
    main()
