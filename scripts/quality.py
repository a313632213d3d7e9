"""Measures of quality: of chances, of a ranking, of a summary."""

import re
from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Classes = NDArray[np.int_]


def brier(chances: Array, classes: Classes) -> float:
    """Mean squared distance between the chances and what was true; 0 is perfect, 2 the worst."""
    wanted = np.eye(chances.shape[1])[classes]
    return float(((chances - wanted) ** 2).sum(axis=1).mean())


def calibration_error(chances: Array, classes: Classes, bins: int = 15) -> float:
    """How far confidence lies from accuracy, over bins of equal width (ECE)."""
    confidence, right = chances.max(axis=1), chances.argmax(axis=1) == classes
    place = np.minimum((confidence * bins).astype(int), bins - 1)
    gaps = [
        abs(right[place == index].mean() - confidence[place == index].mean())
        * (place == index).mean()
        for index in np.unique(place)
    ]
    return float(sum(gaps))


def macro_f1(chosen: Classes, classes: Classes, labels: int) -> float:
    """The mean over labels of the harmonic mean of precision and recall."""
    scores = []
    for label in range(labels):
        hits = ((chosen == label) & (classes == label)).sum()
        scores.append(2 * hits / max(1, (chosen == label).sum() + (classes == label).sum()))
    return float(np.mean(scores))


def retrieval(queries: Array, documents: Array) -> tuple[float, float]:
    """Share of queries whose own document comes first, and the mean reciprocal rank."""
    likeness = queries @ documents.T
    own = np.diag(likeness)[:, None]
    ranks = 1 + (likeness > own).sum(axis=1)
    return float((ranks == 1).mean()), float((1 / ranks).mean())


def words(text: str) -> list[str]:
    return re.findall(r"[a-z0-9]+", text.lower())


def rouge(summary: str, reference: str) -> tuple[float, float, float]:
    """F1 of ROUGE-1, ROUGE-2 and ROUGE-L, no stemming."""
    made, wanted = words(summary), words(reference)
    return (
        _overlap(_grams(made, 1), _grams(wanted, 1)),
        _overlap(_grams(made, 2), _grams(wanted, 2)),
        _f1(_longest_common(made, wanted), len(made), len(wanted)),
    )


def _grams(text: Sequence[str], size: int) -> Counter[tuple[str, ...]]:
    return Counter(tuple(text[start : start + size]) for start in range(len(text) - size + 1))


def _overlap(made: Counter[tuple[str, ...]], wanted: Counter[tuple[str, ...]]) -> float:
    return _f1((made & wanted).total(), made.total(), wanted.total())


def _f1(hits: int, made: int, wanted: int) -> float:
    return 2 * hits / (made + wanted) if hits else 0.0


def _longest_common(left: Sequence[str], right: Sequence[str]) -> int:
    row = [0] * (len(right) + 1)
    for word in left:
        diagonal = 0
        for index, other in enumerate(right, 1):
            above = row[index]
            row[index] = diagonal + 1 if word == other else max(above, row[index - 1])
            diagonal = above
    return row[-1]
